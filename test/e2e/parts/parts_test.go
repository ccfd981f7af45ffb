package parts

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestOf: a test of which no part ran is skipped, whatever kept them from running, and one of which a part ran is not.
func TestOf(t *testing.T) {
	type part = func(*testing.T)
	skips, passes := part(func(t *testing.T) { t.Skip("there is no time left") }), part(func(*testing.T) {})
	for name, tc := range map[string]struct {
		parts   []part
		skipped bool
	}{
		"all ran":                 {[]part{passes, passes}, false},
		"one ran":                 {[]part{skips, passes, skips}, false},
		"none ran":                {[]part{skips, skips}, true},
		"there is none":           {nil, true},
		"none of a part's ran":    {[]part{func(t *testing.T) { of(t, skips) }, skips}, true},
		"one of a part's ran":     {[]part{func(t *testing.T) { of(t, skips, passes) }, skips}, false},
		"a part skips in the end": {[]part{func(t *testing.T) { t.Cleanup(func() {}); t.SkipNow() }}, true},
	} {
		var test *testing.T
		went := false
		t.Run(name, func(t *testing.T) {
			test = t
			of(t, tc.parts...)
			went = true
		})
		if test.Skipped() != tc.skipped || went == tc.skipped {
			t.Errorf("%s: skipped: %t, went on: %t", name, test.Skipped(), went)
		}
	}
}

func of(t *testing.T, tests ...func(*testing.T)) {
	Of(t, func(run func(string, func(*testing.T)) bool) {
		for i, test := range tests {
			run(strings.Repeat("i", i+1), test)
		}
	})
}

// TestTestsWithNothingButParts of package e2e, whose clusters belong to their parts, use Of: where there is no time for any of these clusters, such a test
// would pass otherwise.
func TestTestsWithNothingButParts(t *testing.T) {
	files, err := filepath.Glob("../*_test.go")
	if err != nil || len(files) == 0 {
		t.Fatalf("%v, %v", files, err)
	}
	// uses are what functions and methods refer to, by name, and tests the tests. What has the same name counts as the same.
	uses, tests := map[string][]string{}, map[string]*ast.FuncDecl{}
	for _, file := range files {
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range parsed.Decls {
			f, is := d.(*ast.FuncDecl)
			if !is || f.Body == nil {
				continue
			}
			uses[f.Name.Name] = append(uses[f.Name.Name], names(f.Body, true)...)
			if strings.HasPrefix(f.Name.Name, "Test") {
				tests[f.Name.Name] = f
			}
		}
	}
	reach := reaching(uses, "newCluster")
	makes := func(names []string) bool { return slices.ContainsFunc(names, func(n string) bool { return reach[n] }) }
	if !makes([]string{"TestCluster"}) || makes([]string{"TestNeeded"}) {
		t.Fatal("which tests have clusters is not found out any more")
	}
	for name, f := range tests {
		if own, all := names(f.Body, false), names(f.Body, true); makes(all) && !makes(own) && !slices.Contains(own, "Of") {
			t.Errorf("%s has clusters in its parts only: run them with parts.Of", name)
		}
	}
}

// names are those of functions and methods that may be called in a body; those in functions inside of it only with inner.
func names(body ast.Node, inner bool) (out []string) {
	add := func(all ...ast.Expr) {
		for _, e := range all {
			switch e := e.(type) {
			case *ast.Ident:
				out = append(out, e.Name)
			case *ast.SelectorExpr:
				out = append(out, e.Sel.Name)
			}
		}
	}
	ast.Inspect(body, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.CallExpr:
			add(n.Fun)
			add(n.Args...)
		case *ast.CompositeLit:
			add(n.Elts...)
		case *ast.FuncLit:
			return inner
		}
		return true
	})
	return out
}

// reaching are the functions that use another one, directly or not.
func reaching(uses map[string][]string, what string) map[string]bool {
	out := map[string]bool{what: true}
	for more := true; more; {
		more = false
		for name, used := range uses {
			if !out[name] && slices.ContainsFunc(used, func(u string) bool { return out[u] }) {
				out[name], more = true, true
			}
		}
	}
	return out
}
