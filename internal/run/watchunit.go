package run

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"slices"
	"sync"
	"time"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/host"
	"quorate.dev/quorate/internal/hostside/system"
	"quorate.dev/quorate/internal/hostside/watch"
	"quorate.dev/quorate/internal/metrics"
	"quorate.dev/quorate/internal/progress"
	"quorate.dev/quorate/internal/render/hostconfig"
	"quorate.dev/quorate/internal/spec"
)

const (
	// unitInterval is the time between two observations of the unit that leads.
	unitInterval = 10 * time.Second
	// unitPatience is the time between two attempts to lead while another unit is known to. Each is a login.
	unitPatience = 30 * time.Second
	// unitReports is the time between two reports to systemd: several fit into WatchdogSec of the unit.
	unitReports = 15 * time.Second
	// unitHangs is after which time without a sign of life the unit reports nothing any more. No step of a repair may take so long.
	unitHangs = 15 * time.Minute
	// unitCompare is how often it compares the data of etcd's members.
	unitCompare = 10 * time.Minute
)

// errReplaced ends a unit whose program or configuration was replaced; systemd starts it again with the new one.
var errReplaced = errors.New("the program or its configuration was replaced")

// WatchHere is the unit on a control plane that observes, and that repairs, and writes what is exposed as metrics, as far as the spec says. It waits for its
// configuration, and returns without an error when that, or its program, was replaced.
func WatchHere(ctx context.Context, log io.Writer) error {
	u := &unit{log: log}
	u.sign()
	u.prepare()
	system.Notify("READY=1")
	go u.live(ctx, system.Notify)
	config, err := u.configuration(ctx)
	if err != nil {
		return err
	}
	c, err := clusterOf(config)
	if err != nil {
		return err
	}
	ctx = host.WithAccess(ctx, &host.Access{Installed: true, StrictHostKeys: true})
	targets := TargetsOf(c.HostsWith(spec.RoleControlPlane))
	for i := range targets {
		targets[i].Patience = host.Brief
	}
	e := newElection(config.Host, targets)
	defer e.resign()
	ctx, end := context.WithCancel(ctx)
	defer u.export(c)()
	defer end()
	w := Watcher{OnlyLook: !c.Spec.Repair.Watch, Interval: unitInterval, CompareEach: unitCompare, Looked: u.looked, Compared: u.compared, Tell: u.tell, Note: u.note,
		Turn: func(ctx context.Context) (bool, error) { return u.turn(ctx, e) },
		Open: func(ctx context.Context) *Engine { return OpenToRead(ctx, c, progress.Func(u.progress)) }}
	u.repairs, u.name = c.Spec.Repair.Watch, c.Metadata.Name
	fmt.Fprintf(log, "watching the cluster %s from %s\n", c.Metadata.Name, config.Host)
	if err := w.Run(ctx); !errors.Is(err, errReplaced) {
		return err
	}
	fmt.Fprintln(log, errReplaced)
	return nil
}

// prepare makes the directory of what is exposed as metrics, if the unit is configured to expose any. The unit that serves them starts when this one is ready,
// and systemd mounts the directory then.
func (u *unit) prepare() {
	if config, err := watch.ReadConfig(); err == nil && len(config.ExporterNames) > 0 {
		u.exposed(u.snapshots.Prepare())
	}
}

// export begins to write what is exposed as metrics, if the spec says so. It returns what ends that: then nothing is exposed until the unit runs again, or
// another one leads.
func (u *unit) export(c *spec.Cluster) (end func()) {
	if !c.Spec.Monitoring.Exporter {
		return func() {}
	}
	u.mu.Lock()
	u.exports = true
	u.mu.Unlock()
	u.exposed(errors.Join(u.snapshots.Prepare(), u.snapshots.Clear()))
	u.standBy()
	return func() { u.exposed(u.snapshots.Clear()) }
}

// standBy exposes that this control plane does not lead.
func (u *unit) standBy() {
	if u.exports {
		u.exposed(u.snapshots.Write(metrics.Snapshot{}))
	}
}

// exposed logs what keeps metrics from being exposed, when that changes.
func (u *unit) exposed(err error) {
	text := ""
	if err != nil {
		text = "the metrics cannot be exposed: " + err.Error()
	}
	u.mu.Lock()
	changed := text != u.unexposed
	u.unexposed = text
	u.mu.Unlock()
	if changed && text != "" {
		fmt.Fprintln(u.log, text)
	}
}

// clusterOf is the spec of a configuration, as the control plane reaches its hosts: directly, with its own key, and with the host keys
// that were recorded when the spec was applied.
func clusterOf(config watch.Config) (*spec.Cluster, error) {
	c, err := spec.Parse([]byte(config.Spec), facts.WatchConfigFile)
	if err != nil {
		return nil, fmt.Errorf("the spec in %s cannot be read: %w; `quorate apply` writes it again", facts.WatchConfigFile, err)
	}
	c.Default()
	c = c.WithContents(config.Files)
	for i := range c.Spec.Hosts {
		h := &c.Spec.Hosts[i]
		h.SSH = spec.SSH{User: h.SSH.User, Port: h.SSHPort(), KeyFile: facts.WatchKeyFile, KnownHostsFile: facts.WatchKnownHostsFile}
	}
	return c, nil
}

// unit is the state of WatchHere.
type unit struct {
	log     io.Writer
	stamps  []stamp
	repairs bool // what breaks

	// exports says that it writes snapshots for the unit that serves metrics, and unexposed why it last could not.
	exports   bool
	snapshots watch.Snapshots
	unexposed string
	name      string // of the cluster

	asked time.Time // when it last tried to lead

	mu     sync.Mutex
	report facts.WatchReport
	last   time.Time // the last sign of life
}

// sign notes a sign of life: the unit goes on.
func (u *unit) sign() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.last = time.Now()
}

// live tells systemd that the unit goes on, as long as it does. If it does not, systemd kills it and starts it again: with its sessions, its
// consent to lead ends. A process that is suspended tells nothing either.
func (u *unit) live(ctx context.Context, notify func(state string)) {
	tick := time.NewTicker(unitReports)
	defer tick.Stop()
	for {
		u.mu.Lock()
		silent := time.Since(u.last)
		exports := u.exports
		u.mu.Unlock()
		if silent < unitHangs {
			notify("WATCHDOG=1")
		}
		if silent < unitHangs && exports {
			_ = u.snapshots.Confirm() // whoever serves it sees that
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// configuration waits for the configuration, which comes after the unit.
func (u *unit) configuration(ctx context.Context) (watch.Config, error) {
	for noted := false; ; noted = true {
		u.sign()
		u.stamps = stampsOf(unitFiles())
		config, err := watch.ReadConfig()
		if !errors.Is(err, fs.ErrNotExist) {
			return config, err
		}
		if !noted {
			fmt.Fprintln(u.log, "there is no configuration yet: `quorate apply` writes it")
		}
		if err := pause(ctx, unitInterval); err != nil {
			return config, err
		}
	}
}

// turn says whether the unit leads. It ends the unit when it was replaced, which is never in the middle of a repair.
func (u *unit) turn(ctx context.Context, e *election) (bool, error) {
	if !slices.Equal(u.stamps, stampsOf(unitFiles())) {
		return false, errReplaced
	}
	if u.report.Leader != "" && !u.report.Leads && time.Since(u.asked) < unitPatience {
		u.write()
		return false, nil
	}
	u.asked = time.Now()
	leads, leader, why := e.hold(ctx)
	u.mu.Lock()
	before := u.report
	u.report.Leads, u.report.Leader = leads, leader
	if u.report.Hindered = why; !leads {
		u.report.Unreachable, u.report.WentBack = nil, nil
	}
	u.mu.Unlock()
	if !leads && before.Leads {
		u.standBy()
	}
	switch {
	case leads && !before.Leads:
		fmt.Fprintln(u.log, "this control plane leads, and "+map[bool]string{true: "repairs what breaks", false: "observes the cluster"}[u.repairs])
	case !leads && before.Leads:
		fmt.Fprintln(u.log, "this control plane leads no more")
	case why != "" && why != before.Hindered:
		fmt.Fprintln(u.log, why)
	}
	u.write()
	return leads, nil
}

// looked notes an observation, and exposes it.
func (u *unit) looked(s *cluster.State) {
	if u.exports {
		snapshot, err := metrics.Observed(u.name, s)
		u.exposed(errors.Join(err, u.snapshots.Write(snapshot)))
	}
	u.mu.Lock()
	u.report.Hindered, u.report.Unreachable, u.report.WentBack = "", maps.Clone(s.Unreachable()), map[string]string{}
	for _, e := range s.Seen.Etcd {
		if e.WentBack != "" {
			u.report.WentBack[e.ID] = e.WentBack
		}
	}
	u.mu.Unlock()
	u.write()
}

// compared notes a comparison of the data of etcd's members. What it means is evaluated by whoever reads the report.
func (u *unit) compared(c facts.EtcdComparison) {
	u.mu.Lock()
	u.report.Compared = &c
	u.mu.Unlock()
	u.write()
}

// tell logs a repair and notes it.
func (u *unit) tell(m Mended) {
	fmt.Fprintln(u.log, m)
	u.mu.Lock()
	u.report.Last, u.report.At = m.String(), time.Now().UTC()
	u.mu.Unlock()
	u.write()
}

// note logs why nothing is repaired now.
func (u *unit) note(text string) {
	fmt.Fprintln(u.log, text)
	u.mu.Lock()
	u.report.Hindered = text
	u.mu.Unlock()
	u.write()
}

// progress logs the steps of a repair. Each is a sign of life.
func (u *unit) progress(e progress.Event) {
	text := e.Title
	if e.Host != "" {
		text += " on " + e.Host
	}
	switch e.Kind {
	case progress.Fail:
		text += ": " + e.Err
	case progress.Note:
		text += ": " + e.Detail
	case progress.Done:
		text += ": done"
	}
	fmt.Fprintln(u.log, text)
	u.write()
}

// write writes the report. If that fails, only status misses it.
func (u *unit) write() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.last = time.Now()
	u.report.Looked = u.last.UTC()
	if err := watch.Report(u.report); err != nil {
		fmt.Fprintln(u.log, "the report for `quorate status` cannot be written:", err)
	}
}

// unitFiles are the files that make up the unit.
func unitFiles() []string {
	return []string{hostconfig.SelfPath, hostconfig.WatchUnitFile, facts.WatchConfigFile, facts.WatchKnownHostsFile, facts.WatchKeyFile}
}

// stamp identifies the content of a file: a new content is a new file (see package durable).
type stamp struct{ size, at int64 }

func stampsOf(paths []string) (out []stamp) {
	for _, path := range paths {
		var s stamp
		if info, err := os.Stat(path); err == nil {
			s = stamp{info.Size(), info.ModTime().UnixNano()}
		}
		out = append(out, s)
	}
	return out
}
