//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
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
	p, err := probe.Start(ctx, config, probe.Options{})
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

// report is what clients have experienced, for a message.
func report(p *probe.Prober, since time.Time) string {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	r, _ := p.Between(ctx, since, time.Now())
	data, _ := json.Marshal(r)
	return string(data)
}
