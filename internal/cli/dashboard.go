package cli

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"quorate.dev/quorate/components"
	"quorate.dev/quorate/internal/bundle"
	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/dashboard"
	"quorate.dev/quorate/internal/drill"
	"quorate.dev/quorate/internal/durable"
	"quorate.dev/quorate/internal/paths"
	"quorate.dev/quorate/internal/plan"
	"quorate.dev/quorate/internal/progress"
	"quorate.dev/quorate/internal/run"
	"quorate.dev/quorate/internal/sources"
	"quorate.dev/quorate/internal/spec"
)

// dashboardFlags are the flags of dashboard.
type dashboardFlags struct {
	listen, cert, key, snapshot string
	drills                      []string
	interval                    time.Duration
	plan                        bool
}

func (a *app) dashboard() *cobra.Command {
	var f dashboardFlags
	cmd := &cobra.Command{
		Use:   "dashboard",
		Short: "Show the cluster in a browser",
		Long: `Serves one page that shows what the cluster survives, what is wrong and what to do about it, all hosts by zone with what they
run, etcd, the load balancers, what quorate apply would do now, recent repairs, and backups and certificates on a timeline. The
page is updated while it is open. It changes nothing.

It listens on this machine only, and prints a link with a token that is different each time. To open the page from another
machine, forward the port (ssh -L 8080:127.0.0.1:8080), or pass a certificate and its key, and another address.

With --snapshot, it observes the cluster once, writes a page that needs nothing else to a file, and ends. The page has no
secrets, but it has the names and addresses of all hosts.

The spec is read again when its file changes, so the plan is shown while you edit the file, before it is applied.
docs/dashboard.md describes the page.`,
		Example: `  quorate dashboard
  quorate dashboard --listen 127.0.0.1:8080 --drill drill.json
  quorate dashboard --snapshot ticket.html`,
		PreRunE: func(*cobra.Command, []string) error { return f.check() },
		RunE:    func(cmd *cobra.Command, _ []string) error { return a.runDashboard(cmd.Context(), f) },
	}
	flags := cmd.Flags()
	flags.StringVar(&f.listen, "listen", "127.0.0.1:0", "the address and the port of the page; port 0 stands for a free one")
	flags.StringVar(&f.cert, "tls-cert", "", "a file with a certificate, and its chain, in PEM; it must be valid for the name in the browser's address")
	flags.StringVar(&f.key, "tls-key", "", "a file with the key of the certificate, in PEM")
	flags.StringVar(&f.snapshot, "snapshot", "", "observe once, and write the page to this file (-: stdout)")
	flags.StringArrayVar(&f.drills, "drill", nil, "show the report that quorate drill --json has written to this file (may be repeated)")
	flags.DurationVar(&f.interval, "interval", 5*time.Second, "the time between two observations")
	flags.BoolVar(&f.plan, "plan", true, "show what apply would do, which needs the bundle of the spec's version")
	return outputs(cmd, "text", "json")
}

func (f dashboardFlags) check() error {
	switch {
	case f.interval < time.Second:
		return usageError{errors.New("--interval must be 1s or more")}
	case (f.cert == "") != (f.key == ""):
		return usageError{errors.New("--tls-cert and --tls-key must be set together")}
	case f.snapshot != "" && f.cert != "":
		return usageError{errors.New("--snapshot writes a file and serves nothing: it cannot be combined with --tls-cert")}
	}
	return nil
}

func (a *app) runDashboard(ctx context.Context, f dashboardFlags) error {
	path, err := a.specPath()
	if err != nil {
		return err
	}
	if err := a.canWrite(f.snapshot); err != nil {
		return err
	}
	var certificate *tls.Certificate
	if f.cert != "" {
		loaded, err := tls.LoadX509KeyPair(f.cert, f.key)
		if err != nil {
			return usageError{fmt.Errorf("reading the certificate of the dashboard: %w", err)}
		}
		certificate = &loaded
	}
	w := &watching{app: a, path: path, plans: f.plan}
	w.changed()
	var drills []dashboard.Drill
	w.spec, err = a.running(ctx, func(c *spec.Cluster) (err error) {
		if drills, err = reports(f.drills, c.Metadata.Name); err != nil {
			return usageError{err}
		}
		return nil
	})
	if err != nil {
		return err
	}
	w.observer.Open = func(ctx context.Context) *run.Engine { return run.OpenToRead(ctx, w.spec, progress.Discard) } // it looks again soon
	defer w.observer.Close()
	if f.snapshot != "" {
		return a.snapshot(ctx, f.snapshot, w, drills)
	}
	feed, err := dashboard.NewFeed(w.look, f.interval, drills)
	if err != nil {
		return err
	}
	server, err := dashboard.NewServer(ctx, f.listen, certificate, feed)
	if wrong, is := errors.AsType[*dashboard.AddressError](err); is {
		return usageError{fmt.Errorf("--listen: %w", wrong)}
	}
	if err != nil {
		return fmt.Errorf("serving the dashboard: %w", err)
	}
	if err := a.print(map[string]string{"cluster": w.spec.Metadata.Name, "url": server.URL(), "link": server.Link()}, func(out io.Writer) error {
		_, err := fmt.Fprintf(out, "The dashboard of %s:\n\n  %s\n\nWhoever has this link can read the page, on this machine, until you end the dashboard with Ctrl-C.\n", w.spec.Metadata.Name, server.Link())
		return err
	}); err != nil {
		return err
	}
	return serveAll(ctx, server.Serve, feed.Run)
}

// serveAll runs functions until all of them have ended. If one fails, the others are told to end.
func serveAll(ctx context.Context, all ...func(context.Context) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	errs := make([]error, len(all))
	var wg sync.WaitGroup
	for i, f := range all {
		wg.Go(func() {
			defer cancel()
			errs[i] = f(ctx)
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// snapshot observes once, and writes the page.
func (a *app) snapshot(ctx context.Context, path string, w *watching, drills []dashboard.Drill) error {
	if w.plans {
		w.prepare(ctx)
	}
	l, err := w.look(ctx)
	if err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		return explain(ctx, err)
	}
	var text strings.Builder
	if err := dashboard.Of(dashboard.Input{State: l.State, Plan: l.Plan, Repairs: l.Repairs, Drills: drills}).Snapshot(&text); err != nil {
		return err
	}
	if path == "-" {
		_, err := io.WriteString(a.out, text.String())
		return err
	}
	if err := durable.Update(path, []byte(text.String()), 0o644); err != nil {
		return fmt.Errorf("writing the page to %s: %w", path, err)
	}
	fmt.Fprintf(a.err, "The page is in %s. It has the names and addresses of all hosts.\n", path)
	return nil
}

// reports reads reports of drills, which must be of the cluster.
func reports(files []string, name string) (out []dashboard.Drill, _ error) {
	for _, file := range files {
		data, err := paths.Read(file)
		if err != nil {
			return nil, fmt.Errorf("reading the report of a drill: %w", err)
		}
		r, err := drill.ParseReport(data)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		if r.Cluster != name {
			return nil, fmt.Errorf("%s is the report of a drill of %s, and not of %s", file, r.Cluster, name)
		}
		out = append(out, dashboard.Drill{File: filepath.Base(file), Report: r})
	}
	return out, nil
}

const (
	// askEach is how often hosts are asked what was repaired, and prepareEach how often a bundle that cannot be used is looked at again.
	askEach     = 15 * time.Second
	prepareEach = time.Minute
)

// watching looks at a cluster for a dashboard.
type watching struct {
	app      *app
	path     string // of the spec
	plans    bool
	observer run.Observer

	spec *spec.Cluster
	// read is what the spec's file was when it was last read, and wrong why it cannot be used as it is now.
	read  os.FileInfo
	wrong string

	repairs dashboard.Repairs
	asked   time.Time

	waits  bool // for the bundles
	mu     sync.Mutex
	bundle prepared
}

// prepared is what a plan has to know of a bundle, or why nobody knows it.
type prepared struct {
	of       *spec.Cluster
	archs    []string // of the hosts, besides this machine's
	running  bool
	bundle   plan.Bundle
	err      error
	prepared time.Time
}

// changed says whether the file of the spec is another one than it was.
func (w *watching) changed() bool {
	info, err := os.Stat(w.path)
	if err != nil {
		return false // an editor may be replacing it
	}
	before := w.read
	w.read = info
	return before == nil || !before.ModTime().Equal(info.ModTime()) || before.Size() != info.Size() || !os.SameFile(before, info)
}

// look is for dashboard.NewFeed.
func (w *watching) look(ctx context.Context) (dashboard.Look, error) {
	if w.changed() {
		c, err := w.app.addressed(anyManaged())
		if w.wrong = ""; err != nil {
			w.wrong = err.Error()
		} else {
			w.observer.Close()
			w.spec, w.asked = c, time.Time{}
		}
	}
	e := w.observer.Engine(ctx)
	s := e.State(ctx)
	if s.Exists() && time.Since(w.asked) >= askEach {
		w.asked, w.repairs = time.Now(), past(e.PastRepairs(ctx, s))
	}
	return dashboard.Look{State: s, Plan: w.plan(ctx, s), Repairs: w.repairs}, nil
}

// past are repairs as a dashboard shows them.
func past(all []run.PastRepair, unknown map[string]string) dashboard.Repairs {
	out := dashboard.Repairs{Unknown: unknown}
	for _, p := range all {
		out.All = append(out.All, dashboard.Repair{Name: p.Repair, Problem: p.Problem, Hosts: p.Hosts, By: p.By, Began: p.Began, Ended: p.Ended, Error: p.Error, Held: p.Held})
	}
	return out
}

// plan is what apply would do with what was observed.
func (w *watching) plan(ctx context.Context, s *cluster.State) dashboard.Planned {
	switch {
	case !w.plans:
		return dashboard.Planned{Unknown: "the dashboard was started with --plan=false"}
	case w.wrong != "":
		return dashboard.Planned{Unknown: "the spec cannot be used as it is now: " + w.wrong}
	}
	b := w.prepared(ctx, s)
	switch {
	case b.err != nil:
		return dashboard.Planned{Unknown: b.err.Error()}
	case b.prepared.IsZero():
		return dashboard.Planned{Unknown: "the bundle is being prepared"}
	}
	p, err := plan.Build(s, b.bundle)
	if refused, is := errors.AsType[*cluster.Refusal](err); is {
		return dashboard.Planned{Refused: refused}
	}
	if err != nil {
		return dashboard.Planned{Unknown: err.Error()}
	}
	return dashboard.Planned{Plan: p}
}

// prepared is the bundle of the spec for the hosts. It may have to be fetched, which nobody waits for unless waits is set.
func (w *watching) prepared(ctx context.Context, s *cluster.State) prepared {
	archs := slices.DeleteFunc(run.Architectures(s), func(arch string) bool {
		return arch == runtime.GOARCH || !slices.Contains(components.Architectures, arch)
	})
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.bundle.of != w.spec || slices.ContainsFunc(archs, func(arch string) bool { return !slices.Contains(w.bundle.archs, arch) }) {
		w.bundle = prepared{of: w.spec, archs: archs}
	}
	if !w.bundle.running && (w.bundle.prepared.IsZero() || w.bundle.err != nil && time.Since(w.bundle.prepared) >= prepareEach) {
		w.bundle.running = true
		all := w.bundle.archs // it may have more than those of the hosts that can be reached now
		if !w.waits {
			go w.fetch(context.WithoutCancel(ctx), w.spec, all)
			return w.bundle
		}
		w.mu.Unlock()
		w.fetch(ctx, w.spec, all)
		w.mu.Lock()
	}
	return w.bundle
}

// prepare is prepared for those who wait.
func (w *watching) prepare(ctx context.Context) {
	w.waits, w.bundle = true, prepared{of: w.spec, running: true}
	w.fetch(ctx, w.spec, nil)
}

func (w *watching) fetch(ctx context.Context, c *spec.Cluster, archs []string) {
	var described plan.Bundle
	b, err := sources.Prepared(ctx, c, progress.Discard)
	bundles := bundle.Set{b}
	for _, arch := range archs {
		if err == nil && bundles.For(arch) == nil {
			b, err = sources.PreparedFor(ctx, c, arch, progress.Discard)
			bundles = append(bundles, b)
		}
	}
	if err == nil {
		described, _, err = run.Describe(c, bundles)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.bundle.of == c && slices.Equal(w.bundle.archs, archs) { // and neither the spec nor the hosts changed meanwhile
		w.bundle = prepared{of: c, archs: archs, bundle: described, err: err, prepared: time.Now()}
	}
}
