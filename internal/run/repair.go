package run

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"quorate.dev/quorate/internal/bundle"
	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/etcd"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/hostside/repairs"
	"quorate.dev/quorate/internal/plan"
	"quorate.dev/quorate/internal/progress"
	"quorate.dev/quorate/internal/quorum"
	"quorate.dev/quorate/internal/sources"
	"quorate.dev/quorate/internal/spec"
)

const (
	// confirmEach is the time between the observations that must agree before anything is repaired.
	confirmEach = 2 * time.Second
	// gonePatience is how long what was repaired may take until it is seen to work.
	gonePatience = 3 * time.Minute
	// mostLooks is how many observations may be made until something is repaired.
	mostLooks = 20
	// mostRepairs ends a run in which one repair leads to the next for ever.
	mostRepairs = 50
	// noteTimeout is how long notes about a repair may take: in the journal of a host, and as events.
	noteTimeout = 10 * time.Second
	// unnotedPause is the pause after an attempt that was not made because it could not be noted.
	unnotedPause = time.Minute
)

// Outcome is how one repair ended.
type Outcome string

// What can become of a repair.
const (
	Repaired      Outcome = "repaired" // and seen to work
	RepairFailed  Outcome = "failed"
	RepairRefused Outcome = "refused" // it would be unsafe now
	RepairLimited Outcome = "limited" // it was tried too often, or a moment ago
	RepairPlanned Outcome = "planned" // by a run that changes nothing
)

// Mended is one repair and what became of it.
type Mended struct {
	plan.Repair
	Outcome Outcome `json:"outcome"`
	// Steps are what was done, or what would be.
	Steps []string `json:"steps,omitempty"`
	// Detail is why it was not done, or why it failed.
	Detail string    `json:"detail,omitempty"`
	Began  time.Time `json:"began,omitzero"`
	// Seconds is how long it took until it was seen to work.
	Seconds float64 `json:"seconds,omitempty"`
	// Next is when it may be tried again, if it was tried too often.
	Next time.Time `json:"next,omitzero"`
	// Unnoted are the hosts on which it could not be noted, with the reason.
	Unnoted map[string]string `json:"unnoted,omitempty"`
	// limit is when the limit that keeps it from being tried ends, by the clock of its host; zero if nobody can tell.
	limit time.Time
}

func (m Mended) String() string {
	where := ""
	if m.Host != "" {
		where = " on " + m.Host
	}
	text := fmt.Sprintf("%s: %s%s: %s", m.Outcome, m.Name, where, m.Problem)
	if len(m.Steps) > 0 {
		text += " (" + strings.Join(m.Steps, "; ") + ")"
	}
	if m.Detail != "" {
		text += ": " + m.Detail
	}
	if len(m.Unnoted) > 0 {
		text += "; it could not be noted " + onHosts(m.Unnoted)
	}
	return text
}

// onHosts lists hosts with what is said of each.
func onHosts(why map[string]string) string {
	var out []string
	for _, h := range slices.Sorted(maps.Keys(why)) {
		out = append(out, "on "+h+" ("+why[h]+")")
	}
	return strings.Join(out, ", ")
}

// RepairReport is everything that a run of repairs did, and did not do.
type RepairReport struct {
	Cluster string   `json:"cluster"`
	Repairs []Mended `json:"repairs"`
	Notes   []string `json:"notes,omitempty"`
	// Left is what is wrong afterwards, and Margins how many failures the cluster survives.
	Left    []cluster.Finding `json:"left"`
	Margins quorum.Margins    `json:"margins"`
}

// Has says that a repair had the outcome.
func (r *RepairReport) Has(o Outcome) bool {
	return slices.ContainsFunc(r.Repairs, func(m Mended) bool { return m.Outcome == o })
}

// Unfinished says that something is left that keeps the cluster from matching its spec, or that a repair has to be made again: it failed, or it waits
// until it may be tried again.
func (r *RepairReport) Unfinished() bool {
	return r.Has(RepairFailed) || r.Has(RepairLimited) || slices.ContainsFunc(r.Left, func(f cluster.Finding) bool { return f.Unmet })
}

// RepairOptions are how a run repairs.
type RepairOptions struct {
	// DryRun only says what would be done.
	DryRun bool
	// Compare has the members of etcd hash their data, which slows them down for a moment.
	Compare bool
	// Looked is called with each observation, Tell with each repair as it ends, and Compared with each comparison of the members' data; nil if nobody wants to know.
	Looked   func(*cluster.State)
	Tell     func(Mended)
	Compared func(facts.EtcdComparison)
}

// Repair repairs what is broken, one thing at a time: what several observations in a row agree on, what the safety rules allow, and
// what was not tried too often. Each repair is noted on its host before it is made, and counts as done when it was seen to work.
func (e *Engine) Repair(ctx context.Context, o RepairOptions) (*RepairReport, error) {
	if !o.DryRun {
		if err := e.takeLeases(ctx, e.Cluster.Spec.Hosts); err != nil {
			return nil, err
		}
	}
	m := &mending{Engine: e, options: o, report: &RepairReport{Cluster: e.Cluster.Metadata.Name, Repairs: []Mended{}, Left: []cluster.Finding{}}, seen: map[string]int{}, tried: map[string]bool{}, compare: o.Compare}
	err := m.run(ctx)
	if m.state != nil {
		for _, f := range m.state.Findings() {
			if f.Severity != cluster.Info {
				m.report.Left = append(m.report.Left, f)
			}
		}
		m.report.Margins = m.state.Margins()
	}
	return m.report, err
}

// mending is one run of repairs.
type mending struct {
	*Engine
	options RepairOptions
	report  *RepairReport

	state *cluster.State // of the last observation
	work  *Work
	// seen counts in how many observations in a row each repair was due, and tried are those that this run is done with.
	seen  map[string]int
	tried map[string]bool
	// compare says that the data of etcd's members is to be compared; hashes are the last results.
	compare bool
	hashes  map[string]facts.EtcdHash
}

func (m *mending) run(ctx context.Context) error {
	for range mostRepairs {
		due, err := m.confirmed(ctx)
		if err != nil || len(due) == 0 {
			return err
		}
		if m.options.DryRun {
			for _, r := range due {
				m.tell(proposed(r))
			}
			return nil
		}
		r := due[0]
		m.tried[r.Key()] = true
		m.tell(m.mend(ctx, r))
		clear(m.seen)
		// A member that was replaced has other data than before, and another one may be wrong as well.
		m.compare = m.options.Compare && joinsEtcd(r)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
	return fmt.Errorf("one repair leads to the next: %d were made, and more are due; `quorate status` shows what is wrong", mostRepairs)
}

func proposed(r plan.Repair) Mended {
	if r.Refused != nil {
		return Mended{Repair: r, Outcome: RepairRefused, Detail: r.Refused.Error()}
	}
	return Mended{Repair: r, Outcome: RepairPlanned, Steps: titles(r.Plan)}
}

func titles(p *plan.Plan) (out []string) {
	for _, s := range p.Steps {
		title := s.Title
		if s.Host != "" {
			title += " on " + s.Host
		}
		out = append(out, title)
	}
	return out
}

func (m *mending) tell(x Mended) {
	m.report.Repairs = append(m.report.Repairs, x)
	if m.options.Tell != nil {
		m.options.Tell(x)
	}
}

// confirmed observes until enough observations in a row agree on what is to be repaired, or on that nothing is.
func (m *mending) confirmed(ctx context.Context) ([]plan.Repair, error) {
	for looks := 1; ; looks++ {
		due, err := m.look(ctx)
		if err != nil {
			return nil, err
		}
		now := map[string]bool{}
		var ready []plan.Repair
		waits := false
		for _, r := range due {
			if m.tried[r.Key()] {
				continue
			}
			now[r.Key()] = true
			if m.seen[r.Key()]++; m.seen[r.Key()] >= r.Looks {
				ready = append(ready, r)
			} else {
				waits = true
			}
		}
		for key := range m.seen {
			if !now[key] {
				delete(m.seen, key)
			}
		}
		// What was confirmed is repaired immediately, unless something more urgent may be confirmed soon. Something that comes and goes
		// keeps nothing else waiting.
		urgent := len(ready) > 0 && ready[0].Key() == due[first(due, m.tried)].Key()
		if !waits || urgent && !m.options.DryRun || looks >= mostLooks {
			return ready, nil
		}
		if err := pause(ctx, confirmEach); err != nil {
			return nil, err
		}
	}
}

// first is the most urgent repair that was not tried.
func first(due []plan.Repair, tried map[string]bool) int {
	return slices.IndexFunc(due, func(r plan.Repair) bool { return !tried[r.Key()] })
}

// look observes once, and finds what is broken.
func (m *mending) look(ctx context.Context) ([]plan.Repair, error) {
	m.state = m.State(ctx)
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if m.options.Looked != nil {
		m.options.Looked(m.state)
	}
	if m.compare {
		m.compare, m.hashes = false, nil
		if c := m.Compare(ctx, m.state); c != nil {
			m.hashes = c.Hashes
			if m.options.Compared != nil {
				m.options.Compared(*c)
			}
		}
	}
	if m.hashes != nil {
		m.state.Seen.AddHashes(m.hashes)
		// A difference is looked at again each time: it must not be that of one moment.
		m.compare = slices.ContainsFunc(m.state.Findings(), func(f cluster.Finding) bool { return f.Rule == cluster.RuleEtcdData }) && differ(m.hashes)
	}
	w, described, err := m.known(m.state)
	if err != nil {
		return nil, err
	}
	m.work = w
	due, notes, err := plan.Repairs(m.state, described)
	m.report.Notes = notes
	return due, err
}

func differ(hashes map[string]facts.EtcdHash) bool {
	one := map[facts.EtcdHash]bool{}
	for _, h := range hashes {
		one[h] = true
	}
	return len(one) > 1
}

// Compare has the members of etcd that work hash their data at one revision, and notes the results in the state. It returns nil if fewer than two
// members could be asked, or if etcd is not ours. It slows the members down: they read all of their data.
func (e *Engine) Compare(ctx context.Context, s *cluster.State) *facts.EtcdComparison {
	var members []etcd.Member
	for _, h := range s.Present().EtcdHosts() {
		conn, err := e.Conns.Get(h.Name)
		if m, has := s.Member(h.Name); has && err == nil && s.Facts(h.Name) != nil && m.Started && m.Unknown == "" && !m.Learner {
			members = append(members, etcd.On(h.Name, h.Address, conn, nil, s.Seen))
		}
	}
	const pair = 2
	if len(members) < pair || s.Spec.ExistingEtcd() {
		return nil
	}
	out := &facts.EtcdComparison{At: time.Now().UTC(), Hashes: etcd.Hashes(ctx, members)}
	if len(out.Hashes) < pair {
		return nil
	}
	s.Seen.AddHashes(out.Hashes)
	return out
}

// known are the bundles that the hosts run, if this machine has them. Without them, programs and images are left as they are.
func (e *Engine) known(s *cluster.State) (*Work, plan.Bundle, error) {
	w := &Work{State: s}
	var bundles bundle.Set
	for _, arch := range Architectures(s) {
		b, err := sources.Cached(e.Cluster, arch)
		if err != nil {
			return w, plan.Bundle{}, nil //nolint:nilerr // it is not here, and repairs do without
		}
		bundles = append(bundles, b)
	}
	if len(bundles) == 0 {
		return w, plan.Bundle{}, nil
	}
	for _, h := range e.Cluster.Spec.Hosts {
		if f := s.Facts(h.Name); f != nil && f.Binaries != "" && (bundles.For(f.Arch) == nil || f.Binaries != bundles.For(f.Arch).Digest()) {
			return w, plan.Bundle{}, nil // a host runs another one: that is an upgrade, and no repair
		}
	}
	described, manifests, err := Describe(e.Cluster, bundles)
	if err != nil {
		return w, plan.Bundle{}, nil //nolint:nilerr // the same
	}
	w.bundles, w.described, w.manifests = bundles, described, manifests
	return w, described, nil
}

// mend makes one repair.
func (m *mending) mend(ctx context.Context, r plan.Repair) Mended {
	out := proposed(r)
	if out.Outcome == RepairRefused {
		m.announce(ctx, out)
		return out
	}
	out.Began = time.Now().UTC()
	name := strings.TrimSuffix(r.Name+" "+r.Of, " ")
	attempt := repairs.Begin{Attempt: repairs.Attempt{Repair: name, Problem: r.Problem, How: r.How, By: owner()}, AnHour: r.AnHour}
	noted, unnoted, l := begin(m.journals(r), freesDisk(r), func(h string, ask bool) (repairs.Decision, error) {
		ctx, cancel := context.WithTimeoutCause(ctx, noteTimeout, fmt.Errorf("no answer within %s", noteTimeout)) // a disk may hang
		defer cancel()
		attempt.Ask = ask
		c, err := m.Conns.Get(h)
		if err != nil {
			return repairs.Decision{}, err
		}
		return repairs.BeginAttempt.On(ctx, c, attempt)
	})
	if l != nil {
		m.note(ctx, noted, repairs.Attempt{Repair: name, Dropped: true})
		out.Outcome, out.Detail, out.Next, out.limit = RepairLimited, l.why, time.Now().Add(l.wait).UTC(), l.until
		m.announce(ctx, out)
		return out
	}
	out.Unnoted = unnoted
	m.work.Plan = r.Plan
	err := m.work.sound(ctx)
	if err == nil {
		err = m.execute(ctx, r.Plan, m.work)
	}
	made := err == nil
	if made {
		err = m.gone(ctx, r)
	}
	out.Seconds = time.Since(out.Began).Seconds()
	if out.Outcome = Repaired; err != nil {
		out.Outcome, out.Detail = RepairFailed, err.Error()
		if refused, ok := errors.AsType[*cluster.Refusal](err); ok {
			out.Outcome, out.Refused = RepairRefused, refused
		}
	}
	m.note(ctx, noted, repairs.Attempt{Repair: name, Error: out.Detail, Made: made})
	m.announce(ctx, out)
	return out
}

// journals are the hosts on which a repair is noted: its own, or all that have to do with etcd.
func (m *mending) journals(r plan.Repair) []string {
	if r.Host != "" {
		return []string{r.Host}
	}
	var out []string
	for _, h := range m.Cluster.Spec.Hosts {
		if (h.Has(spec.RoleControlPlane) || h.Has(spec.RoleEtcd)) && m.state.Reachable(h.Name) {
			out = append(out, h.Name)
		}
	}
	return out
}

// freesDisk says that a repair only removes what is not needed. On a disk that is full, it cannot be noted before it is made, and there is
// nothing to limit: what was removed is not found again.
func freesDisk(r plan.Repair) bool {
	return !slices.ContainsFunc(r.Plan.Steps, func(s plan.Step) bool { return s.Kind != plan.FreeDisk })
}

// limited is why a repair must not be tried now, for how long, and until when by the clock of the host that limits it; zero if none does.
type limited struct {
	why   string
	wait  time.Duration
	until time.Time
}

// begin notes an attempt in the journals of hosts. It returns the hosts on which it is noted, those on which it could not be, with the reason, and
// why the repair must not be made now; nil if it may be.
//
// Each journal that can be read has a say: one that had too many attempts limits the repair. But not each of them can keep it from being made by being
// on a disk that is full, or that can only be read: that would be the case of all others which most needs it. A majority must have noted it, so that
// whoever repairs next, and reaches another majority, finds it. A repair that need not be noted is made all the same.
func begin(hosts []string, optional bool, ask func(host string, only bool) (repairs.Decision, error)) (noted []string, unnoted map[string]string, _ *limited) {
	unnoted = map[string]string{}
	answered := hosts
	for _, only := range []bool{true, false} {
		var good []string
		var longest repairs.Decision
		for _, h := range answered {
			d, err := ask(h, only)
			switch {
			case err != nil:
				unnoted[h] = strings.TrimPrefix(err.Error(), h+": ")
			case d.Wait > longest.Wait:
				longest = d
			case d.Wait == 0:
				good = append(good, h)
			}
		}
		if !only {
			noted = good
		}
		if d := longest; d.Wait > 0 {
			text := fmt.Sprintf("it was tried %d times within an hour; the next attempt is allowed at %s", d.Tried, time.Now().Add(d.Wait).UTC().Format("15:04:05 UTC"))
			if d.Last != "" {
				text += "; the last one failed: " + d.Last
			}
			return noted, unnoted, &limited{why: text, wait: d.Wait, until: d.Until}
		}
		if need := quorum.Majority(len(hosts)); len(good) < need && !optional {
			text := "it could not be noted, and what is not noted is not limited: " + onHosts(unnoted)
			if len(hosts) > 1 {
				text = fmt.Sprintf("it can be noted on %d of %d hosts, and %d are needed, because what is not noted is not limited; it could not be noted %s", len(good), len(hosts), need, onHosts(unnoted))
			}
			return noted, unnoted, &limited{why: text, wait: unnotedPause}
		}
		answered = good
	}
	return noted, unnoted, nil
}

// note notes how an attempt ended, even if the run is being interrupted. A note that cannot be made is not missed: the attempt counts.
func (m *mending) note(ctx context.Context, hosts []string, in repairs.Attempt) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), noteTimeout)
	defer cancel()
	for _, h := range hosts {
		if c, err := m.Conns.Get(h); err == nil {
			if _, err := repairs.EndAttempt.On(ctx, c, in); err != nil {
				m.Progress.Emit(progress.Event{Time: time.Now(), Kind: progress.Note, Host: h, ID: h + "/journal", Title: "note the repair", Detail: err.Error()})
			}
		}
	}
}

// gone waits until what was repaired is not found any more.
func (m *mending) gone(ctx context.Context, r plan.Repair) error {
	ctx, cancel := context.WithTimeoutCause(ctx, gonePatience, fmt.Errorf("not within %s", gonePatience))
	defer cancel()
	// What was compared with the member that was replaced says nothing about the new one.
	m.hashes = nil
	for {
		due, err := m.look(ctx)
		i := slices.IndexFunc(due, func(o plan.Repair) bool { return o.Key() == r.Key() })
		switch {
		case err == nil && i < 0 && joinsEtcd(r) && !m.serves(r.Host):
			err = errors.New("it was done, and the API server on " + r.Host + " does not serve yet")
		case err == nil && i < 0 && restartsEtcd(r) && !m.answers(r.Host):
			err = errors.New("it was done, and the etcd member on " + r.Host + " does not answer yet")
		case err == nil && i < 0:
			return nil
		case err == nil:
			err = errors.New("it was done, and the problem is still there: " + due[i].Problem)
		}
		if e := pause(ctx, confirmEach); e != nil {
			return fmt.Errorf("%w (%w)", err, e)
		}
	}
}

// serves says that the API server of a host is ready, where it has one.
func (m *mending) serves(host string) bool {
	h, _ := m.Cluster.Host(host)
	return !h.Has(spec.RoleControlPlane) || m.state.APIServer(host).OK
}

// answers says that the etcd member of a host tells how it is.
func (m *mending) answers(host string) bool {
	e, has := m.state.Member(host)
	return has && e.ClusterID != ""
}

// restartsEtcd says that a member of etcd is restarted. While it is away, nothing is found of what was wrong with it.
func restartsEtcd(r plan.Repair) bool {
	return r.Plan != nil && slices.ContainsFunc(r.Plan.Steps, func(s plan.Step) bool {
		return s.Change != nil && s.Change.Verb == cluster.Restart && (s.Change.Part == cluster.EtcdMember || s.Change.Part == cluster.ControlPlane)
	})
}

// joinsEtcd says that a member of etcd is replaced.
func joinsEtcd(r plan.Repair) bool {
	return r.Plan != nil && slices.ContainsFunc(r.Plan.Steps, func(s plan.Step) bool { return s.Kind == plan.JoinEtcd || s.Kind == plan.RejoinEtcd })
}
