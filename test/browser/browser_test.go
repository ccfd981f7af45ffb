//go:build browser

// Package browser opens the pages of reports in a real browser, as people do.
package browser

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

// pictures is where pictures of all pages are written, for people who look at them.
var pictures = flag.String("pictures", "", "write a picture of each page to this directory")

// pageTimeout is for one view of a page. Most take a second.
const pageTimeout = 2 * time.Minute

// start starts a browser; there must be one on this machine.
func start(t *testing.T) context.Context {
	t.Helper()
	program := ""
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if found, err := exec.LookPath(name); err == nil {
			program = found
			break
		}
	}
	if program == "" {
		t.Skip("the pages of reports were not opened in a browser: there is none on this machine; install one with: apt-get install --yes --no-install-recommends chromium")
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(program), chromedp.DisableGPU,
		chromedp.Flag("disable-component-update", true), chromedp.Flag("disable-quic", true))
	if os.Geteuid() == 0 {
		options = append(options, chromedp.NoSandbox) // as root, it does not start otherwise; the pages are our own
	}
	allocator, stop := chromedp.NewExecAllocator(t.Context(), options...)
	t.Cleanup(stop)
	browser, end := chromedp.NewContext(allocator)
	t.Cleanup(end)
	if err := chromedp.Do(browser); err != nil {
		t.Fatalf("starting %s: %v", program, err)
	}
	return browser
}

// axe is the source of a library that finds what people with disabilities stumble over.
func axe(t *testing.T) string {
	t.Helper()
	source, err := os.ReadFile("node_modules/axe-core/axe.min.js")
	if err != nil {
		t.Fatalf("%v; install it with: npm ci --prefix test/browser --ignore-scripts", err)
	}
	return string(source)
}

// problems collects what a page should not do.
type problems struct {
	mu  sync.Mutex
	all []string
}

func (p *problems) listen(pages ...string) func(event any) {
	add := func(format string, args ...any) {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.all = append(p.all, fmt.Sprintf(format, args...))
	}
	return func(event any) {
		switch e := event.(type) {
		case *runtime.EventExceptionThrown:
			add("exception: %s", e.ExceptionDetails.Text)
		case *runtime.EventConsoleAPICalled:
			add("console: %s", e.Type)
		case *log.EventEntryAdded:
			add("%s from %s: %s", e.Entry.Level, e.Entry.Source, e.Entry.Text)
		case *network.EventRequestWillBeSent:
			if url := e.Request.URL; !slices.Contains(pages, url) && !strings.HasPrefix(url, "about:") && !strings.HasPrefix(url, "data:") {
				add("request: %s", url)
			}
		}
	}
}

func (p *problems) report(t *testing.T) {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, text := range p.all {
		t.Error(text)
	}
}

// violation is a rule that a page breaks.
type violation struct {
	ID    string   `json:"id"`
	Help  string   `json:"help"`
	Nodes []string `json:"nodes"`
}

const audit = `axe.run(document, {iframes: false, resultTypes: ["violations"]}).then(r => r.violations.map(v => ({id: v.id, help: v.help, nodes: v.nodes.slice(0, 5).map(n => n.html.slice(0, 300) + " " + n.failureSummary)})))`

// nameless are pictures without a name, and headings that skip a level.
const nameless = `[...[...document.querySelectorAll("svg")].filter(s => s.getAttribute("role") != "img" || !s.querySelector("title")?.textContent).map(s => "a picture has no name: " + s.outerHTML.slice(0, 200)),
	...[...document.querySelectorAll("h1, h2, h3, h4")].filter((h, i, all) => +h.tagName[1] > (i ? +all[i - 1].tagName[1] : 0) + 1).map(h => "a heading skips a level: " + h.textContent),
	...[...document.querySelectorAll("th:not([scope])")].map(h => "a table header has no scope: " + h.textContent)]`

// TestPages opens the pages that the tests of their packages have written.
func TestPages(t *testing.T) {
	pages, err := filepath.Glob("../../internal/*/testdata/*.html")
	if err != nil || len(pages) < 5 {
		t.Fatalf("only %d pages were found: %v", len(pages), err)
	}
	browser, source := start(t), axe(t)
	for _, file := range pages {
		file, err := filepath.Abs(file)
		if err != nil {
			t.Fatal(err)
		}
		url := "file://" + file
		for _, width := range []int64{390, 1280} {
			for _, scheme := range []string{"light", "dark"} {
				name := fmt.Sprintf("%s/%s/%d-%s", filepath.Base(filepath.Dir(filepath.Dir(file))), filepath.Base(file), width, scheme)
				t.Run(name, func(t *testing.T) { view(t, browser, source, url, width, scheme) })
			}
		}
		t.Run(filepath.Base(file)+"/printed", func(t *testing.T) { printed(t, browser, url) })
	}
}

// open opens a page in a tab of its own. The page may ask for itself, and for what also names.
func open(t *testing.T, browser context.Context, url string, width int64, media emulation.SetEmulatedMediaParams, also ...string) (context.Context, *problems) {
	t.Helper()
	tab, end := chromedp.NewContext(browser)
	t.Cleanup(end)
	var found problems
	if err := chromedp.Listen(tab, found.listen(append(also, url)...)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(tab, pageTimeout)
	t.Cleanup(cancel)
	if err := chromedp.Do(ctx, chromedp.EmulateViewport(width, 900), chromedp.Func(func(ctx context.Context, tab *chromedp.Target) error {
		_, err := cdp.Call(ctx, tab, emulation.SetEmulatedMedia, media)
		return err
	}), chromedp.Navigate(url)); err != nil {
		t.Fatal(err)
	}
	return ctx, &found
}

func evaluate[T any](t *testing.T, ctx context.Context, script string) T {
	t.Helper()
	out, err := chromedp.Run(ctx, chromedp.Evaluate[T](script, chromedp.EvalAwaitPromise))
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func view(t *testing.T, browser context.Context, source, url string, width int64, scheme string) {
	ctx, found := open(t, browser, url, width, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}})
	if dark := evaluate[bool](t, ctx, `getComputedStyle(document.body).backgroundColor != "rgb(255, 255, 255)"`); dark != (scheme == "dark") {
		t.Errorf("the page is dark: %t", dark)
	}
	for _, opened := range []bool{false, true} {
		evaluate[chromedp.Void](t, ctx, fmt.Sprintf(`document.querySelectorAll("details").forEach(d => d.open ||= %t)`, opened))
		if wide := evaluate[int64](t, ctx, `document.documentElement.scrollWidth`); wide > width {
			t.Errorf("the page is %d pixels wide", wide)
		}
	}
	accessible(t, ctx, source)
	picture(t, ctx, "")
	if strings.HasSuffix(url, "report-illegal.html") {
		frame(t, ctx)
	}
	found.report(t)
}

// accessible checks that people with disabilities can use a page as it is now.
func accessible(t *testing.T, ctx context.Context, source string) {
	t.Helper()
	for _, text := range evaluate[[]string](t, ctx, nameless) {
		t.Error(text)
	}
	evaluate[chromedp.Void](t, ctx, source+"\n;undefined")
	for _, v := range evaluate[[]violation](t, ctx, audit) {
		t.Errorf("%s: %s\n\t%s", v.ID, v.Help, strings.Join(v.Nodes, "\n\t"))
	}
}

// picture writes a picture of the whole page, if they are wanted.
func picture(t *testing.T, ctx context.Context, suffix string) {
	t.Helper()
	if *pictures == "" {
		return
	}
	const best = 100 // as PNG
	png, err := chromedp.Run(ctx, chromedp.FullScreenshot(best))
	if err == nil {
		err = os.MkdirAll(*pictures, 0o755)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(*pictures, strings.ReplaceAll(t.Name(), "/", "_")+suffix+".png"), png, 0o644)
	}
	if err != nil {
		t.Error(err)
	}
}

// frame checks that the history ran its script, which the policy of the page allows by its hash, and could not reach the page.
func frame(t *testing.T, ctx context.Context) {
	t.Helper()
	if reached := evaluate[bool](t, ctx, `document.querySelector("iframe").contentDocument != null`); reached {
		t.Error("the frame has the origin of the page")
	}
	// A frame of another origin tells nothing but its picture: with the script, the text is longer than the one character without it.
	picture, err := chromedp.Run(ctx, chromedp.Screenshot(chromedp.CSS("iframe")))
	if err != nil {
		t.Fatal(err)
	}
	evaluate[chromedp.Void](t, ctx, `new Promise(done => {
		const frame = document.querySelector("iframe")
		frame.onload = () => setTimeout(done, 200)
		frame.srcdoc = frame.srcdoc.replace(/<script>.*<\/script>/s, "")
	})`)
	without, err := chromedp.Run(ctx, chromedp.Screenshot(chromedp.CSS("iframe")))
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Equal(picture, without) {
		t.Error("the script of the history did not run")
	}
}

// printed checks that a page is printed on white, with everything that is evidence.
func printed(t *testing.T, browser context.Context, url string) {
	ctx, found := open(t, browser, url, 1000, emulation.SetEmulatedMediaParams{Media: "print", Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: "dark"}}})
	if color := evaluate[string](t, ctx, `getComputedStyle(document.body).backgroundColor`); color != "rgb(255, 255, 255)" {
		t.Errorf("it is printed on %s", color)
	}
	for _, hidden := range evaluate[[]string](t, ctx, `[...document.querySelectorAll("details.evidence")].filter(d => !d.lastElementChild.checkVisibility({contentVisibilityAuto: true})).map(d => d.textContent.slice(0, 80))`) {
		t.Errorf("this is not printed: %s", hidden)
	}
	document, err := chromedp.Run(ctx, chromedp.PrintToPDF(chromedp.PDFPreferCSSPageSize()))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.HasPrefix(document, []byte("%PDF-")) {
		t.Errorf("%d bytes that are no document", len(document))
	}
	found.report(t)
}
