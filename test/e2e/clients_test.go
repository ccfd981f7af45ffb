//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"testing"
	"time"

	"k8s.io/client-go/rest"

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
	pace := unhurried(t, ctx, config)
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

// unhurried is how often clients may ask without being a burden: 50 ms, and more where a request on a new connection takes more than a fifth of that.
// Where a whole cluster shares a few slow processors, clients that ask more often keep it from becoming whole again.
func unhurried(t *testing.T, ctx context.Context, config *rest.Config) time.Duration {
	t.Helper()
	tls, err := rest.TLSConfigFor(config)
	if err != nil {
		t.Fatal(err)
	}
	client := http.Client{Transport: &http.Transport{TLSClientConfig: tls, DisableKeepAlives: true}, Timeout: 10 * time.Second}
	var took []time.Duration
	poll(t, ctx, 50*time.Millisecond, "the API answers clients", func() error {
		begin := time.Now()
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, config.Host+"/version", nil)
		if err != nil {
			t.Fatal(err)
		}
		answer, err := client.Do(r)
		if err != nil {
			return err
		}
		answer.Body.Close()
		if took = append(took, time.Since(begin)); len(took) < 15 {
			return errors.New("more answers are measured")
		}
		return nil
	})
	slices.Sort(took)
	pace := min(max(50*time.Millisecond, 5*took[len(took)/2]), 500*time.Millisecond).Round(10 * time.Millisecond)
	t.Logf("half of the answers took %s or less: clients ask every %s", took[len(took)/2].Round(time.Millisecond), pace)
	return pace
}

// report is what clients have experienced, for a message.
func report(p *probe.Prober, since time.Time) string {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	r, _ := p.Between(ctx, since, time.Now())
	data, _ := json.Marshal(r)
	return string(data)
}
