package durable_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"
)

// TestNobodyElseRenames keeps the rest of the program from renaming files into place without bringing them to the disk, and
// from rewriting files in place.
func TestNobodyElseRenames(t *testing.T) {
	allowed := map[string]string{
		"internal/bundle/debian.go": "moves files within a temporary directory",
		"internal/lab/recipe.go":    "moves a directory within an image that is brought to the disk afterwards",
	}
	root := filepath.Join("..", "..")
	seen := map[string]bool{}
	for _, top := range []string{"internal", "cmd"} {
		err := filepath.WalkDir(filepath.Join(root, top), func(path string, e fs.DirEntry, err error) error {
			if err != nil || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") || filepath.Dir(path) == filepath.Join(root, "internal", "durable") {
				return err
			}
			f, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
			if err != nil {
				return err
			}
			name, err := filepath.Rel(root, path)
			if err != nil {
				return err
			}
			ast.Inspect(f, func(n ast.Node) bool {
				s, ok := n.(*ast.SelectorExpr)
				if !ok {
					return true
				}
				x, ok := s.X.(*ast.Ident)
				if !ok {
					return true
				}
				switch call := x.Name + "." + s.Sel.Name; call {
				case "os.Rename", "unix.Renameat2", "clientcmd.WriteToFile":
					seen[name] = true
					if allowed[name] == "" {
						t.Errorf("%s uses %s: use package durable", name, call)
					}
				}
				return true
			})
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for name := range allowed {
		if !seen[name] {
			t.Errorf("%s is allowed to rename, and does not", name)
		}
	}
}
