//go:build browser

package browser

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/cluster/clustertest"
	"quorate.dev/quorate/internal/dashboard"
)

// changing is a cluster to which something happens.
type changing struct {
	mu   sync.Mutex
	next dashboard.Look
	err  error
}

func (c *changing) becomes(f clustertest.Fixture) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.next, c.err = dashboard.Look{State: cluster.Evaluate(f.Spec, f.Seen), Plan: dashboard.Planned{Unknown: "this is a test"}}, nil
}

func (c *changing) vanishes(why string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.err = errors.New(why)
}

func (c *changing) look(context.Context) (dashboard.Look, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.next, c.err
}

// until waits for something to be the case on the page.
func until(t *testing.T, ctx context.Context, condition string) {
	t.Helper()
	evaluate[bool](t, ctx, fmt.Sprintf(`new Promise((done, fail) => {
		const end = Date.now() + 20000
		const look = () => {
			if (%s) done(true)
			else if (Date.now() > end) fail(new Error(%q + " is not the case: " + document.body.innerText.slice(0, 600)))
			else setTimeout(look, 50)
		}
		look()
	})`, condition, condition))
}

// TestDashboard follows the page of a server while something happens to the cluster, and then to the server.
func TestDashboard(t *testing.T) {
	browser, source := start(t), axe(t)
	var c changing
	c.becomes(clustertest.Whole())
	feed, err := dashboard.NewFeed(c.look, 200*time.Millisecond, nil)
	if err != nil {
		t.Fatal(err)
	}
	server, err := dashboard.NewServer(t.Context(), "127.0.0.1:0", nil, feed)
	if err != nil {
		t.Fatal(err)
	}
	ctx, end := context.WithCancel(t.Context())
	ended := make(chan error, 2)
	go func() { ended <- server.Serve(ctx) }()
	go func() { ended <- feed.Run(ctx) }()
	defer func() {
		end()
		if err := errors.Join(<-ended, <-ended); err != nil {
			t.Error(err)
		}
	}()

	tab, found := open(t, browser, server.Link(), 1280, emulation.SetEmulatedMediaParams{}, server.URL(), server.URL()+"events")
	until(t, tab, `document.title == "lab: healthy"`)
	if at := evaluate[string](t, tab, `location.href`); at != server.URL() {
		t.Errorf("the token is in the address %s", at)
	}
	if empty := evaluate[[]string](t, tab, `[...document.querySelectorAll("main > section")].filter(s => !s.querySelector("h2")).map(s => s.id)`); len(empty) > 0 {
		t.Errorf("these parts are empty: %v", empty)
	}
	if err := chromedp.Do(tab, chromedp.KeyEvent("\t")); err != nil {
		t.Fatal(err)
	}
	if first := evaluate[string](t, tab, `document.activeElement.className`); first != "skip" {
		t.Errorf("the first stop of the keyboard is %q", first)
	}
	accessible(t, tab, source)
	picture(t, tab, "-live")

	// What people opened, and where they are, stays when something changes.
	evaluate[chromedp.Void](t, tab, `document.getElementById("hosts-table").open = true; document.getElementById("hosts-table-s").focus()`)
	dead := clustertest.Whole()
	dead.Dies("cp-b", "w-b", "lb-b")
	c.becomes(dead)
	until(t, tab, `document.title == "lab: degraded" && document.getElementById("hosts").innerText.includes("unknown")`)
	if kept := evaluate[bool](t, tab, `document.getElementById("hosts-table").open && document.activeElement.id == "hosts-table-s"`); !kept {
		t.Error("the table was closed, or the focus was lost")
	}
	if said := evaluate[string](t, tab, `document.getElementById("announce").textContent`); !strings.HasPrefix(said, "lab: degraded. It survives no loss of") {
		t.Errorf("a screen reader says %q", said)
	}

	// An observation that fails does not make anything that was up down.
	c.becomes(clustertest.Whole())
	until(t, tab, `document.title == "lab: healthy"`)
	c.vanishes("no host can be reached from here")
	until(t, tab, `document.body.classList.contains("stale") && document.getElementById("summary").innerText.includes("Stale since 2026-08-03 12:00:00 UTC: no host can be reached from here.")`)
	if down := evaluate[bool](t, tab, `document.querySelectorAll(".host.bad, .tiles .bad").length > 0`); down {
		t.Error("what is unknown is shown as down")
	}
	accessible(t, tab, source)
	picture(t, tab, "-stale")
	c.becomes(clustertest.Whole())
	until(t, tab, `!document.body.classList.contains("stale")`)

	// Whoever pauses the page reads on undisturbed.
	evaluate[chromedp.Void](t, tab, `document.getElementById("pause").click()`)
	c.becomes(dead)
	until(t, tab, `document.title == "lab: degraded"`)
	if moved := evaluate[bool](t, tab, `document.getElementById("summary").innerText.includes("degraded")`); moved {
		t.Error("a page that is paused changes")
	}
	evaluate[chromedp.Void](t, tab, `document.getElementById("pause").click()`)
	until(t, tab, `document.getElementById("summary").innerText.includes("degraded")`)
	found.report(t)

	for link, want := range map[string]string{server.URL(): "no token", server.URL() + "#token=wrong": "not that of this dashboard"} {
		other, _ := open(t, browser, link, 390, emulation.SetEmulatedMediaParams{}, server.URL(), server.URL()+"events")
		until(t, other, fmt.Sprintf(`document.getElementById("lost-title").textContent.includes(%q)`, want))
		if leaked := evaluate[bool](t, other, `document.body.innerText.includes("cp-a")`); leaked {
			t.Errorf("%s shows something of the cluster", link)
		}
	}

	// The page says that it is stale when the dashboard ends, and tries again.
	end()
	until(t, tab, `!document.getElementById("lost").hidden && document.getElementById("lost-title").textContent.startsWith("Stale since ")`)
	if shown := evaluate[bool](t, tab, `document.getElementById("summary").innerText.includes("degraded") && document.body.classList.contains("stale")`); !shown {
		t.Error("what was known is not shown any more, or not as stale")
	}
}
