package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"k8s.io/klog/v2"

	"components.quorate.dev/flannel/health"
)

// When flanneld compares what it owns with what it should be. Events start a comparison immediately; the others find what no
// event reports.
const (
	resync    = 30 * time.Second
	unsettled = 5 * time.Second // instead of resync while something is wrong or unknown
	pause     = time.Second     // at least, between two comparisons: another program may remove our objects each time
)

// fault is objects of one kind that are missing or wrong.
type fault struct {
	kind    health.Kind
	objects []string
	// restore makes the objects what they should be. Nil means that another part of flanneld does that.
	restore func(context.Context) error
}

// part compares some of the objects that flanneld owns with what they should be. It returns the faults in the order in which
// they have to be restored. An error means that not everything could be compared.
type part func(context.Context) ([]fault, error)

// keeper restores the objects that flanneld owns on its node when other programs remove or change them: rules, when a
// firewall service is reloaded, or routes, when a network manager removes those that it did not make.
type keeper struct {
	watch         func(wake func()) (stop func(), err error)
	resync, pause time.Duration
	file          string // where the report is written

	mu    sync.Mutex
	parts []part

	report health.Report
}

// add makes the keeper compare more objects from now on.
func (k *keeper) add(p part) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.parts = append(k.parts, p)
}

// run compares and restores until ctx ends.
func (k *keeper) run(ctx context.Context) {
	wake := make(chan struct{}, 1)
	stop, err := k.watch(func() {
		select {
		case wake <- struct{}{}:
		default: // a comparison is pending
		}
	})
	if err != nil {
		klog.Errorf("watch the kernel's network configuration: %v; comparing it every %s only", err, k.resync)
	} else {
		defer stop()
	}
	for {
		begun := time.Now()
		next := k.resync
		if !k.sync(ctx) {
			next = min(next, unsettled)
		}
		select {
		case <-ctx.Done():
			return
		case <-wake:
		case <-time.After(next):
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(k.pause - time.Since(begun)):
		}
	}
}

// sync compares everything once, restores what is wrong, and writes the report. It says whether all is as it should be.
func (k *keeper) sync(ctx context.Context) bool {
	k.mu.Lock()
	parts := slices.Clone(k.parts)
	k.mu.Unlock()
	var (
		unknown []error
		wrong   = map[health.Kind]bool{}
	)
	for _, p := range parts {
		seen, left, err := repair(ctx, p)
		if ctx.Err() != nil {
			return false
		}
		if err != nil {
			unknown = append(unknown, err)
		}
		for _, kind := range slices.Sorted(maps.Keys(seen)) {
			restored := slices.DeleteFunc(seen[kind], func(o string) bool { return slices.Contains(left[kind].objects, o) })
			if len(restored) > 0 {
				klog.Warningf("Restored %s: %s", kind, summary(restored))
				k.noteRestored(kind, restored)
			}
		}
		for _, kind := range slices.Sorted(maps.Keys(left)) {
			l := left[kind]
			wrong[kind] = true
			klog.Errorf("Not restored yet: %s: %s (error: %v)", kind, summary(l.objects), l.err)
			k.noteRemaining(kind, l.objects, l.err)
		}
	}
	if ctx.Err() != nil {
		return false
	}
	k.report.SyncError = ""
	if err := errors.Join(unknown...); err != nil {
		klog.Errorf("compare the node's network with what it should be: %v", err)
		k.report.SyncError = err.Error()
	} else {
		k.report.LastSync = time.Now()
		k.settle(wrong)
	}
	if err := k.write(); err != nil {
		klog.Error(err)
	}
	return len(unknown) == 0 && len(wrong) == 0
}

// rounds is how often objects are restored in one comparison: restoring one can cost others, as an interface that is set up
// again has lost its routes.
const rounds = 3

// remaining is what could not be restored, and why.
type remaining struct {
	objects []string
	err     error
}

// repair compares a part and restores what is wrong. It returns all that was seen to be wrong, and what is left of it. An error means
// that not everything could be compared: then nothing counts as restored.
func repair(ctx context.Context, p part) (seen map[health.Kind][]string, left map[health.Kind]remaining, err error) {
	seen, left = map[health.Kind][]string{}, map[health.Kind]remaining{}
	failures := map[health.Kind]error{}
	for round := 0; ; round++ {
		faults, err := p(ctx)
		now := map[health.Kind][]string{}
		restorable := false
		for _, f := range faults {
			now[f.kind] = append(now[f.kind], f.objects...)
			for _, o := range f.objects {
				if !slices.Contains(seen[f.kind], o) {
					seen[f.kind] = append(seen[f.kind], o)
				}
			}
			restorable = restorable || f.restore != nil
		}
		if !restorable || round == rounds {
			if err != nil {
				now = seen
			}
			for kind, objects := range now {
				left[kind] = remaining{slices.Clone(objects), failures[kind]}
			}
			return seen, left, err
		}
		clear(failures)
		for _, f := range faults {
			if f.restore == nil {
				continue
			}
			if err := f.restore(ctx); err != nil {
				failures[f.kind] = errors.Join(failures[f.kind], err)
			}
		}
	}
}

// summary is for the log.
func summary(objects []string) string {
	if more := len(objects) - health.MaxObjects; more > 0 {
		return fmt.Sprintf("%s; and %d more", strings.Join(objects[:health.MaxObjects], "; "), more)
	}
	return strings.Join(objects, "; ")
}

// noteRestored records objects that were wrong and are restored. What happens again and again is one problem.
func (k *keeper) noteRestored(kind health.Kind, objects []string) {
	now := time.Now()
	p := problemOf(kind, objects, now)
	p.Restored = &now
	same := func(o health.Problem) bool {
		return o.Kind == kind && o.Count == p.Count && slices.Equal(o.Objects, p.Objects)
	}
	if i := slices.IndexFunc(k.report.Problems, same); i >= 0 {
		old := k.report.Problems[i]
		p.FirstSeen, p.Times = old.FirstSeen, old.Times+1
		if old.Restored == nil {
			p.Times = old.Times
		}
		k.report.Problems = slices.Delete(k.report.Problems, i, i+1)
	}
	k.report.Problems = append(k.report.Problems, p)
}

// noteRemaining records objects that are wrong still. There is at most one such problem of a kind.
func (k *keeper) noteRemaining(kind health.Kind, objects []string, err error) {
	p := problemOf(kind, objects, time.Now())
	if err != nil {
		p.Error = err.Error()
	}
	open := func(o health.Problem) bool { return o.Kind == kind && o.Restored == nil }
	if i := slices.IndexFunc(k.report.Problems, open); i >= 0 {
		p.FirstSeen, p.Times = k.report.Problems[i].FirstSeen, k.report.Problems[i].Times
		k.report.Problems[i] = p
		return
	}
	k.report.Problems = append(k.report.Problems, p)
}

// settle closes the problems of those kinds that were compared and found in order, and forgets the oldest ones.
func (k *keeper) settle(wrong map[health.Kind]bool) {
	now := time.Now()
	for i, p := range k.report.Problems {
		if p.Restored == nil && !wrong[p.Kind] {
			k.report.Problems[i].Restored = &now
		}
	}
	for len(k.report.Problems) > health.MaxProblems {
		i := slices.IndexFunc(k.report.Problems, func(p health.Problem) bool { return p.Restored != nil })
		k.report.Problems = slices.Delete(k.report.Problems, max(i, 0), max(i, 0)+1)
	}
}

func problemOf(kind health.Kind, objects []string, now time.Time) health.Problem {
	return health.Problem{Kind: kind, Objects: slices.Clone(objects[:min(len(objects), health.MaxObjects)]), Count: len(objects), FirstSeen: now, LastSeen: now, Times: 1}
}

// write replaces the report in one step: its reader may come at any time.
func (k *keeper) write() error {
	raw, err := json.MarshalIndent(k.report, "", "  ")
	if err != nil {
		return fmt.Errorf("report the health of this node's network: %w", err)
	}
	tmp := filepath.Join(filepath.Dir(k.file), ".health-new")
	if err := os.WriteFile(tmp, append(raw, '\n'), 0o644); err != nil {
		return fmt.Errorf("report the health of this node's network: %w", err)
	}
	if err := os.Rename(tmp, k.file); err != nil {
		return fmt.Errorf("report the health of this node's network: %w", err)
	}
	return nil
}

// missingFile is a part: a file that must exist. What other programs write into it is theirs: some add themselves to the CNI
// configuration.
func missingFile(name string, restore func() error) part {
	return func(context.Context) ([]fault, error) {
		_, err := os.Stat(name)
		if errors.Is(err, os.ErrNotExist) {
			return []fault{{health.Files, []string{name + ": missing"}, func(context.Context) error { return restore() }}}, nil
		}
		return nil, err
	}
}
