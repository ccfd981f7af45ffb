package cli

import (
	"cmp"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
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

// Whoever follows a fix, a refusal or a page of the documentation types what is written there. These tests take every command
// line of quorate out of the program's strings, the files that it embeds, and the documentation, and have the commands read it: the
// flags, their values, the number of arguments, and what cannot be combined.

// mention is a command line as it was found somewhere.
type mention struct {
	where string // file:line
	line  string // without the program's name
	whole bool   // it stands alone, to be copied: in a block of code, or in an example
}

// unset stands for a part of a string that is not known before the program runs.
const unset = "\x00"

// verbs may follow the name of the program in a sentence. Every other word there is a command: one that does not exist must not be promised.
var verbs = strings.Fields("and build builds built can cannot does for go has in is itself made mounts of on process runs table that to upload wrote") // table: in rules of nftables

func allMentions(t *testing.T) []mention {
	t.Helper()
	return slices.Concat(mentionsInSource(t, "../../internal", "../../cmd"), mentionsInPages(t, "../../README.md", "../../docs", "../../examples"),
		mentionsInFiles(t, "../../internal", ".tmpl", ".yaml", ".js"), mentionsInFiles(t, "../../examples", ".yaml"), mentionsInFiles(t, "../../Makefile", "Makefile"))
}

func TestEveryCommandThatIsNamedExists(t *testing.T) {
	found := allMentions(t)
	if len(found) < 900 {
		t.Fatalf("only %d command lines were found: the test does not see what it should", len(found))
	}
	t.Logf("%d command lines", len(found))
	for _, m := range found {
		if _, err := m.read(); err != nil {
			t.Errorf("%s: `quorate %s`: %v", m.where, strings.ReplaceAll(m.line, unset, "…"), err)
		}
	}
}

// TestEveryFlagThatIsNamedExists: sentences also name flags without their command.
func TestEveryFlagThatIsNamedExists(t *testing.T) {
	// Those of other programs, and the first part of several.
	others := strings.Fields(`accel clock images machines slow keep force-new-cluster peer-ca-file patches shutdown-delay-duration service-account-jwks-uri
		service-account-extend-token-expiration service-account-key-file service-cluster-ip-range runtime-config feature-gates permit-port-sharing endpoint-reconciler-type
		max-requests-inflight max-mutating-requests-inflight default-watch-cache-size watch-cache-sizes etcd-prefix etcd-servers control-plane cluster raw follow help now
		node-name force-directories ignore-daemonsets delete-emptydir-data token field-selector kubeconfig kubernetes-version etcd- max-depth upload-certs zone new-bundle-format`)
	known := map[string]bool{}
	for _, c := range commandsBelow((&app{}).root()) {
		c.InheritedFlags()
		c.Flags().VisitAll(func(f *pflag.Flag) { known[f.Name] = true })
	}
	named := regexp.MustCompile("(?:^|[ `(/])--([a-z][a-z0-9-]+)")
	for _, file := range filesIn(t, []string{"../../README.md", "../../docs"}, ".md") {
		if strings.Contains(file, "/decisions/") { // those of the day on which they were made
			continue
		}
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, q := range quoted.FindAllStringSubmatch(string(data), -1) {
			for _, m := range named.FindAllStringSubmatch(q[1], -1) {
				if !known[m[1]] && !slices.Contains(others, m[1]) {
					t.Errorf("%s names --%s, which no command of quorate has; if another program has it, add it to the list in this test", file, m[1])
				}
			}
		}
	}
}

// commandsBelow are a command and all below it that --help shows.
func commandsBelow(c *cobra.Command) []*cobra.Command {
	out := []*cobra.Command{c}
	for _, sub := range c.Commands() {
		if !sub.Hidden {
			out = append(out, commandsBelow(sub)...)
		}
	}
	return out
}

// read has the command read its command line, in a tree of its own, and returns the command with its flags.
func (m mention) read() (*cobra.Command, error) {
	words := splitWords(m.line)
	if len(words) > 0 && strings.Contains(words[0], "|") && !strings.HasPrefix(words[0], "-") { // status|plan
		for _, choice := range strings.Split(words[0], "|") {
			if _, err := (mention{line: strings.Join(append([]string{choice}, words[1:]...), " ")}).read(); err != nil {
				return nil, err
			}
		}
		return nil, nil
	}
	a := &app{err: io.Discard, in: strings.NewReader("")}
	at := a.root()
	if len(words) == 0 {
		return at, nil
	}
	var args []string
	usage := false
	open, named := false, false // whether something is not known, and whether the command was named
	for i := 0; i < len(words); i++ {
		word := strings.Trim(words[i], `[],:`)
		switch {
		case word == "--":
			args, i = append(args, words[i+1:]...), len(words)
		case strings.HasPrefix(word, "-") && word != "-":
			takes, err := setFlag(at, word, append(words[i+1:], "")[0])
			if err != nil {
				return at, err
			}
			if takes {
				i++
			}
		case word == "flags": // [flags]: how the command is used, and no call of it
			usage = true
		case word == "", strings.HasPrefix(word, unset), word == "…", word == "...":
			open, named = true, true // what comes here is not known
		case !named && at.HasSubCommands():
			next := subcommand(at, word)
			switch {
			case next != nil:
				at = next
			case isName(word): // COMMAND
				open, named = true, true
			default:
				return at, fmt.Errorf("%s has no command %q", at.CommandPath(), word)
			}
		default:
			named, args = true, append(args, word)
			if at.Name() == "ssh" || at.Name() == "exec" {
				return at, nil // the rest is for a machine
			}
		}
	}
	if open || at.Parent() == nil {
		return at, nil
	}
	if err := a.knownOutput(at); err != nil {
		return at, err
	}
	if usage {
		at.PreRunE = nil
	}
	flags := 0
	at.Flags().Visit(func(*pflag.Flag) { flags++ })
	err := m.accepted(at, args)
	if err != nil && len(args) == 0 && !m.whole {
		if flags == 0 {
			return at, nil // only the name of the command
		}
		if m.accepted(at, []string{"NAME"}) == nil {
			return at, nil // a sentence about these flags
		}
	}
	return at, err
}

// accepted is what the command says to its arguments and flags before it does anything.
func (m mention) accepted(at *cobra.Command, args []string) error {
	if at.Args != nil && !slices.ContainsFunc(args, isPattern) {
		if err := at.Args(at, args); err != nil {
			return err
		}
	}
	if at.PreRunE == nil || slices.ContainsFunc(args, isPattern) {
		return nil
	}
	if err := at.PreRunE(at, args); err != nil && (m.whole || !errors.Is(err, errNoIdentity)) { // sentences leave out --identity
		return err
	}
	return nil
}

// isName says that a word stands for something that a reader fills in, such as HOST.
func isName(word string) bool {
	return strings.ToUpper(word) == word && strings.ToLower(word) != word || strings.ContainsAny(word, "…"+unset)
}

// isPattern says that an argument stands for several kinds of arguments, as in the usage of a command.
func isPattern(word string) bool {
	return slices.Contains([]string{"KIND", "ca|front-proxy-ca|etcd-ca|sa", "HOST|zone/ZONE...", "NAME|FILE|--from-data"}, word)
}

// splitWords splits a command line as a shell does.
func splitWords(line string) (words []string) {
	var word strings.Builder
	quote, any := rune(0), false
	for _, c := range line {
		switch {
		case quote == 0 && (c == '\'' || c == '"'):
			quote, any = c, true
		case c == quote:
			quote = 0
		case quote == 0 && (c == ' ' || c == '\t' || c == '\n'):
			if any {
				words = append(words, word.String())
				word.Reset()
				any = false
			}
		default:
			word.WriteRune(c)
			any = true
		}
	}
	if any {
		words = append(words, word.String())
	}
	return words
}

func subcommand(at *cobra.Command, name string) *cobra.Command {
	for _, c := range at.Commands() {
		if c.Name() == name || c.HasAlias(name) {
			return c
		}
	}
	return nil
}

// setFlag sets a flag of the command, and reports whether it takes the next word.
func setFlag(at *cobra.Command, word, next string) (takes bool, err error) {
	name, value, given := strings.Cut(word, "=")
	for _, flag := range strings.Split(name, "/") { // -o/--output
		if flag == "-h" || flag == "--help" || strings.HasPrefix(flag, "--"+unset) {
			continue
		}
		at.InheritedFlags() // adds those of the commands above
		var f *pflag.Flag
		switch {
		case strings.HasPrefix(flag, "--"):
			f = at.Flags().Lookup(flag[2:])
		case len(flag) == 2:
			f = at.Flags().ShorthandLookup(flag[1:])
		}
		if f == nil {
			return false, fmt.Errorf("%s has no flag %s", at.CommandPath(), flag)
		}
		takes = f.NoOptDefVal == "" && !given
		switch {
		case takes && next == "":
			return takes, nil // a sentence about the flag
		case takes:
			value = next
		case !given:
			value = f.NoOptDefVal
		}
		if isName(value) {
			value = map[string]string{"host": "name=cp-a", "ignore": "clock"}[f.Name] // values that are checked
		}
		if err := at.Flags().Set(f.Name, cmp.Or(value, "NAME")); err != nil && value != "" {
			return takes, err
		}
	}
	return takes, nil
}

var (
	quoted  = regexp.MustCompile("`([^`]*)`")
	command = regexp.MustCompile(`(?:^|[\s;&|(/])quorate((?:[ \t]+(?:'[^']*'|"[^"]*"|[^\s;&>#)(])+)+)`)
	started = regexp.MustCompile(`(?m)^Exec\w+=\S+ host ([^\n]+)$`) // what a unit runs
	prose   = regexp.MustCompile(`(?:^|[\s(])quorate\s([a-z][a-z-]*)`)
	verb    = regexp.MustCompile(`%(\[\d+\])?[-+# 0]*[\d.]*[a-zA-Z]`)
)

// inText finds the command lines in one text: those in backquotes, and commands by name that do not exist, also without them.
func inText(where, text string) (out []mention) {
	for _, q := range quoted.FindAllStringSubmatch(text, -1) {
		out = append(out, inCode(where, q[1])...)
	}
	for _, m := range prose.FindAllStringSubmatch(quoted.ReplaceAllString(text, ""), -1) {
		if !slices.Contains(verbs, m[1]) {
			out = append(out, mention{where: where, line: m[1]})
		}
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
		out = append(out, mention{where: where, line: line})
	}
	return out
}

// inBlock finds command lines in a line of a code block.
func inBlock(where, line string) (out []mention) {
	shell, _, _ := strings.Cut(line, " #")
	for _, part := range strings.Split(shell, " | ") {
		part, _, _ = strings.Cut(strings.TrimSpace(part), "   ") // an explanation
		for _, first := range []string{"$ ", "# ", "@", "sudo ", "./", "bin/"} {
			part = strings.TrimPrefix(part, first)
		}
		if strings.HasPrefix(part, "quorate ") {
			for _, m := range inCode(where, part) {
				m.whole = true
				out = append(out, m)
			}
		}
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
			for _, m := range started.FindAllStringSubmatch(text, -1) {
				out = append(out, mention{where: where, line: "host " + strings.ReplaceAll(m[1], unset, "NAME"), whole: true})
			}
			if !strings.Contains(text, "`") { // help texts are raw strings, which cannot hold backquotes: their examples are indented
				for line := range strings.Lines(strings.ReplaceAll(text, "\\\n", " ")) {
					if strings.TrimLeft(line, " \t") != line {
						out = append(out, inBlock(where, line)...)
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

// mentionsInPages takes them out of Markdown: out of code blocks, where only commands count that show output, and out of backquotes
// elsewhere.
func mentionsInPages(t *testing.T, paths ...string) (out []mention) {
	t.Helper()
	for _, file := range filesIn(t, paths, ".md") {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		fenced, output, n := false, false, 0
		var text, before strings.Builder
		for line := range strings.Lines(string(data)) {
			n++
			where := fmt.Sprintf("%s:%d", file, n)
			switch {
			case strings.HasPrefix(strings.TrimSpace(line), "```"):
				fenced, output = !fenced, !fenced && strings.TrimSpace(line) == "```text"
			case output && !strings.HasPrefix(line, "$ "):
				out = append(out, inText(where, line)...)
			case fenced, strings.HasPrefix(line, "    "):
				if half, more := strings.CutSuffix(strings.TrimRight(line, "\n"), "\\"); more {
					before.WriteString(half)
					continue
				}
				out = append(out, inBlock(where, before.String()+line)...)
				before.Reset()
			default:
				text.WriteString(line)
			}
		}
		out = append(out, inText(file, text.String())...) // backquotes may enclose a line break
	}
	return out
}

// mentionsInFiles takes them out of files that the program embeds or that come with it, line by line: out of backquotes, out of
// <code>, and where they stand alone, after the sign of a comment or of a recipe.
func mentionsInFiles(t *testing.T, path string, suffixes ...string) (out []mention) {
	t.Helper()
	var files []string
	for _, suffix := range suffixes {
		files = append(files, filesIn(t, []string{path}, suffix)...)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for line := range strings.Lines(string(data)) {
			n++
			where := fmt.Sprintf("%s:%d", file, n)
			line = strings.NewReplacer("<code>", "`", "</code>", "`", "$(ARGS)", "").Replace(line)
			if alone := strings.TrimLeft(line, "\t #"); strings.HasPrefix(alone, "quorate ") || strings.HasPrefix(alone, "bin/quorate ") {
				shell, _, _ := strings.Cut(alone, "  ")
				for _, part := range strings.Split(shell, " && ") {
					out = append(out, inBlock(where, part)...)
				}
			} else {
				out = append(out, inText(where, line)...)
			}
		}
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
	for line, want := range map[string]string{
		"status":                               "",
		"status --watch -o json":               "",
		"apply --adopt":                        "",
		"-f prod.yaml status":                  "",
		"status|plan":                          "",
		"lab exec cp-a -- ls -l":               "",
		"maintain --undo " + unset:             "",
		"maintain --undo":                      "",
		"lab " + unset:                         "",
		"drill":                                "",
		"drill --only 'kill/*,hang/*'":         "",
		"size --nodes N":                       "",
		"certs rotate ca --yes":                "",
		"backup verify --deep":                 "",
		"lab reset cp-a":                       `has no command "reset"`,
		"status --frob":                        "has no flag --frob",
		"plan --adopt":                         "has no flag --adopt",
		"status|drill":                         "",
		"status|frob":                          `has no command "frob"`,
		"upgrade":                              `has no command "upgrade"`,
		"bundle export --platform=linux/amd64": "has no flag --platform",
		"plan cp-a":                            `unknown command "cp-a"`,
		"certs rotate cab":                     "say what to replace",
		"size --nodes many":                    "invalid argument",
		"status -o xml":                        "unknown output",
		"kubeconfig --merge":                   "--merge requires --to FILE",
		"maintain cp-a cp-b":                   "only one host or zone",
		"restore --lost cp-b NAME":             "need --from-data",
	} {
		_, err := mention{line: line}.read()
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("quorate %s: %v, want %q", strings.ReplaceAll(line, unset, "…"), err, want)
		}
	}
	for line, want := range map[string]string{
		"maintain --undo":          "name a host",
		"backup verify":            "--identity is required",
		"bundle export":            "accepts 1 arg",
		"bundle export bundle.tar": "",
	} {
		_, err := mention{line: line, whole: true}.read()
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("quorate %s, alone: %v, want %q", line, err, want)
		}
	}
	found := inText("x", "Run `quorate apply` or `sudo quorate up; echo`, then quorate upgrade, and quorate itself.")
	if fmt.Sprint(found) != "[{x apply false} {x up false} {x upgrade false}]" {
		t.Errorf("%v", found)
	}
	if found := inBlock("x", "    terraform output | bin/quorate init --from-terraform - # from Terraform"); fmt.Sprint(found) != "[{x init --from-terraform - true}]" {
		t.Errorf("%v", found)
	}
}
