package hostside

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// TestEveryOperationIsLinked finds the packages that define operations: one that is not imported here is answered with
// "does not know the operation" on the first host that is asked.
func TestEveryOperationIsLinked(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), "hostside.go", nil, parser.ImportsOnly)
	if err != nil {
		t.Fatal(err)
	}
	linked := map[string]bool{}
	for _, i := range file.Imports {
		name, err := strconv.Unquote(i.Path.Value)
		if err != nil {
			t.Fatal(err)
		}
		linked[strings.TrimPrefix(name, "quorate.dev/quorate/internal/")] = true
	}
	defines := regexp.MustCompile(`\bhost\.Define(Stream)?\(`)
	found := 0
	err = fs.WalkDir(os.DirFS(".."), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || path.Ext(name) != ".go" || strings.HasSuffix(name, "_test.go") {
			return err
		}
		source, err := os.ReadFile(filepath.Join("..", name))
		if err != nil {
			return err
		}
		if !defines.Match(source) {
			return nil
		}
		found++
		if !linked[path.Dir(name)] {
			t.Errorf("internal/%s defines an operation, and hostside.go does not import its package", name)
		}
		return nil
	})
	if err != nil || found == 0 {
		t.Fatalf("%d files define operations: %v", found, err)
	}
}
