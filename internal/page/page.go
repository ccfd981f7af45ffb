// Package page has what the html reports have in common: their style, and how they write texts and figures. A report is one page that
// needs nothing else: no network, no fonts, and no scripts to be readable.
package page

import (
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"fmt"
	"html/template"
	"math"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/html"
)

//go:embed style.css
var style string

// New parses the template of a page. In addition to what functions adds, the template may use style, the rules of all pages, and
// code, which shows what a text has between backticks as code. A template that cannot be parsed panics.
func New(name, text string, functions template.FuncMap) *template.Template {
	common := template.FuncMap{
		"code":  Code,
		"style": func() template.CSS { return template.CSS(strings.TrimSpace(style)) }, //nolint:gosec // it is a file of this package
	}
	return template.Must(template.New(name).Funcs(common).Funcs(functions).Parse(text))
}

// Code shows what a text has between backticks as code. A text with an odd number of them stays as it is.
func Code(text string) template.HTML {
	parts := strings.Split(template.HTMLEscapeString(text), "`")
	if len(parts)%2 == 0 {
		return template.HTML(strings.Join(parts, "`")) //nolint:gosec // it was escaped
	}
	for i := 1; i < len(parts); i += 2 {
		parts[i] = "<code>" + parts[i] + "</code>"
	}
	return template.HTML(strings.Join(parts, "")) //nolint:gosec // it was escaped
}

// Policy is a content security policy under which a page loads nothing, sends nothing, and runs only the scripts that are part of the
// given documents. A document in a frame of the page has the same policy.
func Policy(documents ...string) string {
	return "default-src 'none'; style-src 'unsafe-inline'; form-action 'none'; base-uri 'none'" + allowed("script", documents)
}

// LivePolicy is the policy, for a header, of a page that the server from which it came keeps up to date: it sends requests to that server only, uses
// only the scripts and style sheets that are part of the document, and is shown in no frame. Attributes with styles have no effect.
func LivePolicy(document string) string {
	return "default-src 'none'; connect-src 'self'; img-src data:; form-action 'none'; base-uri 'none'; frame-ancestors 'none'" +
		allowed("style", []string{document}) + allowed("script", []string{document})
}

// allowed is the directive that allows the inline scripts, or style sheets, of documents; empty if there are none.
func allowed(element string, documents []string) string {
	directive := ""
	for i, text := range inline(element, documents) {
		if i == 0 {
			directive = "; " + element + "-src"
		}
		sum := sha256.Sum256([]byte(text))
		directive += " 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
	}
	return directive
}

// inline are the texts of all elements of a name whose text is no markup: script and style.
func inline(element string, documents []string) (out []string) {
	for _, document := range documents {
		z := html.NewTokenizer(strings.NewReader(document))
		inside := false
		for {
			kind := z.Next()
			if kind == html.ErrorToken { // the end: reading a string does not fail
				break
			}
			name, _ := z.TagName()
			switch {
			case kind == html.StartTagToken && string(name) == element:
				inside = true
			case kind == html.EndTagToken:
				inside = false
			case kind == html.TextToken && inside:
				// A browser hashes the text with the line ends of a parsed document.
				text := strings.NewReplacer("\r\n", "\n", "\r", "\n").Replace(string(z.Raw()))
				out = append(out, text)
			}
		}
	}
	return out
}

// Duration writes a duration with at most three significant digits, which is more than any measurement of a drill is good for: 4.2 ms,
// 0.28 s, 1.4 s, 12 s, 25 min, 2.5 h.
func Duration(d time.Duration) string {
	switch s := d.Seconds(); {
	case d <= 0:
		return "0 s"
	case s < 0.00995:
		return fmt.Sprintf("%.1f ms", s*1000)
	case s < 0.0995:
		return fmt.Sprintf("%.0f ms", s*1000)
	case s < 0.995:
		return fmt.Sprintf("%.2f s", s)
	case s < 9.95:
		return fmt.Sprintf("%.1f s", s)
	case s < 999.5:
		return fmt.Sprintf("%.0f s", s)
	case s < 999.5*60:
		return significant(s/60) + " min"
	default:
		return significant(s/3600) + " h"
	}
}

// Milliseconds writes a number of milliseconds as Duration does.
func Milliseconds[N int64 | float64](ms N) string {
	return Duration(time.Duration(math.Round(float64(ms) * float64(time.Millisecond))))
}

func significant(x float64) string {
	if x < 99.5 {
		return strconv.FormatFloat(x, 'f', 1, 64)
	}
	return strconv.FormatFloat(x, 'f', 0, 64)
}

// Count writes a whole number with commas: 12,480.
func Count(n int) string {
	text := strconv.Itoa(n)
	sign := ""
	if n < 0 {
		sign, text = "-", text[1:]
	}
	for i := len(text) - 3; i > 0; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return sign + text
}
