// Package pagetest checks the pages of reports in tests.
package pagetest

import (
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"golang.org/x/net/html"
)

// void are the elements of pages that have no end tag.
var void = []string{"br", "col", "hr", "meta"}

// SelfContained checks that a page is well-formed, that a browser needs nothing else to show it, that links stay within the page and lead
// somewhere, and that nothing runs. It returns the number of pictures.
func SelfContained(t testing.TB, page string) (pictures int) {
	t.Helper()
	z := html.NewTokenizer(strings.NewReader(page))
	var open, links []string
	ids := map[string]bool{}
	for {
		switch kind := z.Next(); kind {
		case html.ErrorToken:
			if !errors.Is(z.Err(), io.EOF) || len(open) > 0 {
				t.Fatalf("%v, with %v open", z.Err(), open)
			}
			for _, link := range links {
				if !ids[link] {
					t.Errorf("a link leads to #%s, which does not exist", link)
				}
			}
			return pictures
		case html.StartTagToken, html.SelfClosingTagToken:
			tag := z.Token()
			for _, a := range tag.Attr {
				switch {
				case a.Key == "id" && ids[a.Val]:
					t.Errorf("two elements have the id %q", a.Val)
				case a.Key == "id":
					ids[a.Val] = true
				case a.Key == "href" && strings.HasPrefix(a.Val, "#"):
					links = append(links, a.Val[1:])
				case a.Key == "aria-labelledby":
					links = append(links, strings.Fields(a.Val)...)
				case a.Key == "src" || a.Key == "href" || strings.HasPrefix(a.Key, "on"):
					t.Errorf("<%s> has %s=%q", tag.Data, a.Key, a.Val)
				}
			}
			switch tag.Data {
			case "script", "link":
				t.Errorf("the page has <%s>", tag.Data)
			case "svg":
				pictures++
			}
			if kind == html.StartTagToken && !slices.Contains(void, tag.Data) {
				open = append(open, tag.Data)
			}
		case html.EndTagToken:
			tag := z.Token()
			if len(open) == 0 || open[len(open)-1] != tag.Data {
				t.Fatalf("</%s> ends %v", tag.Data, open)
			}
			open = open[:len(open)-1]
		}
	}
}
