package dashboard

import (
	"bytes"
	_ "embed"
	"fmt"
	"html/template"
	"io"

	"quorate.dev/quorate/internal/page"
)

//go:embed page.html.tmpl
var text string

//go:embed script.js
var script string

var pageTemplate = page.New("dashboard.html", text, nil)

// summary is the part at the top, and sections are the others, in their order. Their names are those of their templates, and the IDs of their elements.
const summary = "summary"

var sections = []string{"findings", "hosts", "etcd", "balancers", "plan", "events", "dates", "drills"}

// document is what the template of a whole page shows.
type document struct {
	Title, Policy, Class string
	Sections             []string
	// Parts are the parts of the page by their names. A live page begins without any: its script asks for them.
	Parts  map[string]template.HTML
	Live   bool
	Script template.JS
}

// parts renders every part of the page.
func (p *Page) parts() (map[string]template.HTML, error) {
	out := map[string]template.HTML{}
	for _, name := range append([]string{summary}, sections...) {
		var b bytes.Buffer
		if err := pageTemplate.ExecuteTemplate(&b, name, p); err != nil {
			return nil, fmt.Errorf("rendering the part %s of the dashboard: %w", name, err)
		}
		out[name] = template.HTML(b.String()) //nolint:gosec // the template escapes every text
	}
	return out, nil
}

// Snapshot writes the page as a file that needs nothing else: no server, no network, and no script.
func (p *Page) Snapshot(w io.Writer) error {
	parts, err := p.parts()
	if err != nil {
		return err
	}
	d := document{Title: p.Title, Policy: page.Policy(), Sections: sections, Parts: parts}
	if p.Stale != nil {
		d.Class = "stale"
	}
	if err := pageTemplate.ExecuteTemplate(w, "page", d); err != nil {
		return fmt.Errorf("writing the dashboard: %w", err)
	}
	return nil
}

// live is the page that a server keeps up to date, as it begins: it has nothing of the cluster, because whoever asks for it has not shown the token yet.
func live() ([]byte, error) {
	var b bytes.Buffer
	d := document{Title: "Quorate", Sections: sections, Live: true, Script: template.JS(script)} //nolint:gosec // it is a file of this package
	if err := pageTemplate.ExecuteTemplate(&b, "page", d); err != nil {
		return nil, fmt.Errorf("rendering the dashboard: %w", err)
	}
	return b.Bytes(), nil
}
