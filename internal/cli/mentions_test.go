package cli

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// Whoever follows a fix, a refusal or a page of the documentation types what is written there. This test takes every command
// line of quorate out of the program's strings and out of the documentation, and looks for it in the command tree.

// mention is a command line as it was found somewhere.
type mention struct {
	where string // file:line
	line  string // without the program's name
}

// unset stands for a part of a string that is not known before the program runs.
const unset = "\x00"

// planned are commands that this version does not have. Their names must not be promised, with or without quotes.
var planned = []string{"rotate", "upgrade"}

func TestEveryCommandThatIsNamedExists(t *testing.T) {
	root := (&app{}).root()
	found := append(mentionsInSource(t, "../../internal", "../../cmd"), mentionsInPages(t, "../../README.md", "../../docs", "../../examples")...)
	if len(found) < 150 {
		t.Fatalf("only %d command lines were found: the test does not see what it should", len(found))
	}
	t.Logf("%d command lines", len(found))
	for _, m := range found {
		if err := exists(root, strings.Fields(m.line)); err != nil {
			t.Errorf("%s: `quorate %s`: %v", m.where, strings.ReplaceAll(m.line, unset, "…"), err)
		}
	}
}

// exists follows a command line through the tree.
func exists(at *cobra.Command, words []string) error {
	if len(words) > 0 && strings.Contains(words[0], "|") && !strings.HasPrefix(words[0], "-") { // status|plan
		for _, choice := range strings.Split(words[0], "|") {
			if err := exists(at, append([]string{choice}, words[1:]...)); err != nil {
				return err
			}
		}
		return nil
	}
	named := false
	for i := 0; i < len(words); i++ {
		word := strings.Trim(words[i], `[]"',.:`)
		switch {
		case word == "--":
			return nil
		case strings.HasPrefix(word, "-"):
			takes, err := hasFlag(at, word)
			if err != nil {
				return err
			}
			if takes {
				i++
			}
		case word == "", strings.HasPrefix(word, unset), word == "…", word == "...":
			named = true // what comes here is not known
		case !named && at.HasSubCommands():
			next := subcommand(at, word)
			if next == nil {
				if strings.ToUpper(word) == word { // COMMAND
					named = true
					continue
				}
				return fmt.Errorf("%s has no command %q", at.CommandPath(), word)
			}
			at = next
		default:
			named = true
			if at.Name() == "ssh" || at.Name() == "exec" {
				return nil // the rest is for a machine
			}
		}
	}
	return nil
}

func subcommand(at *cobra.Command, name string) *cobra.Command {
	for _, c := range at.Commands() {
		if c.Name() == name || c.HasAlias(name) {
			return c
		}
	}
	if name == "help" || name == "completion" {
		return at // cobra adds them when it runs
	}
	return nil
}

// hasFlag reports whether the command has the flag, and whether it takes the next word.
func hasFlag(at *cobra.Command, word string) (takes bool, err error) {
	name, _, given := strings.Cut(word, "=")
	for _, flag := range strings.Split(name, "/") { // -o/--output
		if flag == "-h" || flag == "--help" || strings.HasPrefix(flag, "--"+unset) {
			continue
		}
		var f *pflag.Flag
		for _, set := range []*pflag.FlagSet{at.Flags(), at.PersistentFlags(), at.InheritedFlags()} {
			switch {
			case f != nil:
			case strings.HasPrefix(flag, "--"):
				f = set.Lookup(flag[2:])
			case len(flag) == 2:
				f = set.ShorthandLookup(flag[1:])
			}
		}
		if f == nil {
			return false, fmt.Errorf("%s has no flag %s", at.CommandPath(), flag)
		}
		takes = f.NoOptDefVal == "" && !given
	}
	return takes, nil
}

var (
	quoted  = regexp.MustCompile("`([^`]*)`")
	command = regexp.MustCompile(`(?:^|[\s;&|(/])quorate((?:[ \t]+[^\s;&>#)(]+)+)`)
	prose   = regexp.MustCompile(`\bquorate ((?:` + strings.Join(planned, "|") + `)\b)`)
	verb    = regexp.MustCompile(`%(\[\d+\])?[-+# 0]*[\d.]*[a-zA-Z]`)
)

// inText finds the command lines in one text: those in backquotes, and commands by name that do not exist, also without them.
func inText(where, text string) (out []mention) {
	for _, q := range quoted.FindAllStringSubmatch(text, -1) {
		out = append(out, inCode(where, q[1])...)
	}
	for _, m := range prose.FindAllStringSubmatch(quoted.ReplaceAllString(text, ""), -1) {
		out = append(out, mention{where, m[1]})
	}
	return out
}

// inCode finds them in a piece of shell.
func inCode(where, text string) (out []mention) {
	for _, m := range command.FindAllStringSubmatch(text, -1) {
		line := strings.TrimSpace(m[1])
		if pipe := strings.Index(line, " | "); pipe >= 0 {
			line = line[:pipe]
		}
		out = append(out, mention{where, line})
	}
	return out
}

// mentionsInSource takes the texts out of the string literals of programs. Literals that are joined are one text.
func mentionsInSource(t *testing.T, dirs ...string) (out []mention) {
	t.Helper()
	for _, file := range filesIn(t, dirs, ".go") {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		set := token.NewFileSet()
		parsed, err := parser.ParseFile(set, file, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(parsed, func(n ast.Node) bool {
			e, is := n.(ast.Expr)
			if !is {
				return true
			}
			text, literal := flatten(e)
			if !literal {
				return true
			}
			where := fmt.Sprintf("%s:%d", file, set.Position(e.Pos()).Line)
			text = verb.ReplaceAllString(text, unset)
			out = append(out, inText(where, text)...)
			if !strings.Contains(text, "`") { // help texts are raw strings, which cannot hold backquotes: their examples are indented
				for line := range strings.Lines(text) {
					if trimmed := strings.TrimLeft(line, " \t"); trimmed != line && strings.HasPrefix(trimmed, "quorate ") {
						line, _, _ := strings.Cut(trimmed, "   ")
						out = append(out, inCode(where, line)...)
					}
				}
			}
			// What is inside of the sum belongs to it; the arguments of calls in it are texts of their own.
			for _, inner := range notFlattened(e) {
				ast.Inspect(inner, func(n ast.Node) bool {
					if call, is := n.(*ast.BasicLit); is && call.Kind == token.STRING {
						if s, err := strconv.Unquote(call.Value); err == nil {
							out = append(out, inText(where, verb.ReplaceAllString(s, unset))...)
						}
					}
					return true
				})
			}
			return false
		})
	}
	return out
}

// flatten joins the literals of a sum of strings; every other part is unset. It says whether there is a literal at all.
func flatten(e ast.Expr) (string, bool) {
	switch e := e.(type) {
	case *ast.BasicLit:
		if e.Kind == token.STRING {
			s, err := strconv.Unquote(e.Value)
			return s, err == nil
		}
	case *ast.BinaryExpr:
		if e.Op == token.ADD {
			a, isA := flatten(e.X)
			b, isB := flatten(e.Y)
			return a + b, isA || isB
		}
	case *ast.ParenExpr:
		return flatten(e.X)
	}
	return unset, false
}

// notFlattened are the parts of a sum that flatten does not see into.
func notFlattened(e ast.Expr) []ast.Expr {
	switch e := e.(type) {
	case *ast.BasicLit:
		return nil
	case *ast.BinaryExpr:
		if e.Op == token.ADD {
			return append(notFlattened(e.X), notFlattened(e.Y)...)
		}
	case *ast.ParenExpr:
		return notFlattened(e.X)
	}
	return []ast.Expr{e}
}

// mentionsInPages takes them out of Markdown: out of code blocks, except those of the language text, which show output, and out
// of backquotes elsewhere.
func mentionsInPages(t *testing.T, paths ...string) (out []mention) {
	t.Helper()
	for _, file := range filesIn(t, paths, ".md") {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		fenced, output, n := false, false, 0
		var text strings.Builder
		for line := range strings.Lines(string(data)) {
			n++
			where := fmt.Sprintf("%s:%d", file, n)
			switch {
			case strings.HasPrefix(strings.TrimSpace(line), "```"):
				fenced, output = !fenced, !fenced && strings.TrimSpace(line) == "```text"
			case output:
			case fenced, strings.HasPrefix(line, "    "):
				shell, _, _ := strings.Cut(strings.TrimSpace(line), "#")
				if at := strings.Index(shell, "quorate "); at >= 0 && slices.Contains([]string{"", "$", "sudo", "bin/", "./bin/", "# sudo", "sudo bin/"}, strings.TrimSpace(shell[:at])) {
					shell, _, _ = strings.Cut(shell[at:], "   ")
					out = append(out, inCode(where, shell)...)
				}
			default:
				text.WriteString(line)
			}
		}
		out = append(out, inText(file, text.String())...) // backquotes may enclose a line break
	}
	return out
}

func filesIn(t *testing.T, paths []string, suffix string) (out []string) {
	t.Helper()
	for _, path := range paths {
		err := filepath.WalkDir(path, func(file string, d fs.DirEntry, err error) error {
			switch {
			case err != nil:
				return err
			case d.IsDir() && d.Name() == "testdata":
				return filepath.SkipDir
			case !d.IsDir() && strings.HasSuffix(file, suffix):
				out = append(out, file)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return out
}

func TestMentionsAreUnderstood(t *testing.T) {
	root := (&app{}).root()
	for line, want := range map[string]string{
		"status":                               "",
		"status --watch -o json":               "",
		"apply --adopt":                        "",
		"-f prod.yaml status":                  "",
		"status|plan":                          "",
		"lab exec cp-a -- ls -l":               "",
		"maintain --undo " + unset:             "",
		"lab " + unset:                         "",
		"drill":                                "",
		"lab reset cp-a":                       `has no command "reset"`,
		"status --frob":                        "has no flag --frob",
		"plan --adopt":                         "has no flag --adopt",
		"status|drill":                         "",
		"upgrade":                              `has no command "upgrade"`,
		"bundle export --platform=linux/amd64": "has no flag --platform",
	} {
		err := exists(root, strings.Fields(line))
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("quorate %s: %v, want %q", strings.ReplaceAll(line, unset, "…"), err, want)
		}
	}
	found := inText("x", "Run `quorate apply` or `sudo quorate up; echo`, then quorate upgrade, and quorate itself.")
	if fmt.Sprint(found) != "[{x apply} {x up} {x upgrade}]" {
		t.Errorf("%v", found)
	}
}
