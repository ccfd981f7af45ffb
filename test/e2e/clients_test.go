//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"quorate.dev/quorate/internal/drill/probe"
)

// sane is the longest outage after which writes still count as continuing. The real times depend on the computer, so they are
// printed and not checked.
const sane = time.Minute

// calm is how long everything must work before clients count as served again.
const calm = 5 * time.Second

// clients start to read and write, and stop with the test.
func (c *cluster) clients(t *testing.T, ctx context.Context) *probe.Prober {
	t.Helper()
	config, _ := c.client(t, ctx)
	ownClock()
	pace := unhurried(t, ctx)
	p, err := probe.Start(ctx, config, probe.Options{Pace: pace, StreamPace: 4 * pace})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := p.Stop(ctx); err != nil {
			t.Error(err)
		}
	})
	if err := p.Calm(ctx, calm); err != nil {
		t.Fatal(err)
	}
	return p
}

// unhurried is how often clients may ask without being a burden: every 50 ms, and less often where the processors are busy already. Where a whole
// cluster shares a few slow ones, clients that open 40 connections a second keep it from becoming whole again.
func unhurried(t *testing.T, ctx context.Context) time.Duration {
	t.Helper()
	all, idle := processorTime(t)
	pause(ctx, 3*time.Second) // over which load is measured
	allNow, idleNow := processorTime(t)
	share := max(0.05, (idleNow-idle)/(allNow-all))
	pace := min(max(50*time.Millisecond, time.Duration(float64(30*time.Millisecond)/share)), 400*time.Millisecond).Round(10 * time.Millisecond)
	t.Logf("the processors are idle for %.0f %% of the time: clients ask every %s", 100*share, pace)
	return pace
}

// processorTime is the time of all processors since this computer has booted, and how much of that they were idle, in the kernel's units.
func processorTime(t *testing.T) (all, idle float64) {
	t.Helper()
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		t.Fatal(err)
	}
	line, _, _ := strings.Cut(string(text), "\n")
	fields := strings.Fields(line)
	for i, f := range fields[1:min(len(fields), 9)] { // what guests use is a part of what users do
		n, err := strconv.ParseFloat(f, 64)
		if err != nil {
			t.Fatalf("%v in %q", err, line)
		}
		if all += n; i == 3 || i == 4 { // waiting for a disk is idle, too
			idle += n
		}
	}
	return all, idle
}

// report is what clients have experienced, for a message.
func report(p *probe.Prober, since time.Time) string {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	r, _ := p.Between(ctx, since, time.Now())
	data, _ := json.Marshal(r)
	return string(data)
}
