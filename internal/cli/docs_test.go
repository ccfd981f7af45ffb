package cli

import (
	"bytes"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/preflight"
)

var updateCommands = flag.Bool("update-commands", false, "write docs/commands.md")

const commandsFile = "../../docs/commands.md"

//go:generate go test -run TestCommandsPageIsUpToDate -update-commands .

// The page is generated: whoever looks for a command or a flag in the documentation finds what --help shows.
func TestCommandsPageIsUpToDate(t *testing.T) {
	want := commandsPage()
	if *updateCommands {
		if err := os.WriteFile(commandsFile, want, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	have, err := os.ReadFile(commandsFile)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(have, want) {
		t.Error("docs/commands.md does not say what --help shows; run `go generate ./internal/cli`")
	}
}

const commandsIntro = `# Commands and flags

<!-- Generated from internal/cli by go generate; do not edit. -->

Every command explains itself: ` + "`quorate COMMAND --help`" + `. The [README](../README.md#documentation) lists the pages that say when to use which.

## Flags of every command

`

func commandsPage() []byte {
	root := (&app{}).root()
	var b bytes.Buffer
	b.WriteString(commandsIntro)
	writeFlags(&b, root.PersistentFlags())
	b.WriteString("\n[Exit status](guide.md#exit-status) lists what the commands exit with.\n")
	for _, c := range commandsBelow(root)[1:] {
		own := pflag.NewFlagSet("", pflag.ContinueOnError)
		c.LocalFlags().VisitAll(func(f *pflag.Flag) {
			if root.PersistentFlags().Lookup(f.Name) == nil && !f.Hidden {
				own.AddFlag(f)
			}
		})
		fmt.Fprintf(&b, "\n## %s\n\n%s.\n", strings.TrimPrefix(c.CommandPath(), "quorate "), c.Short)
		if c.HasSubCommands() && c.Args != nil && c.Long == "" && !own.HasFlags() { // only the commands below it do something
			continue
		}
		fmt.Fprintf(&b, "\n    %s\n", usage(c, own.HasFlags()))
		if formats := c.Annotations[outputsAnnotation]; formats != "" {
			fmt.Fprintf(&b, "\nOutput formats (`-o`): %s.\n", strings.ReplaceAll(formats, " ", ", "))
		}
		if own.HasFlags() {
			b.WriteString("\n")
			writeFlags(&b, own)
		}
	}
	return b.Bytes()
}

// usage is the command with its arguments.
func usage(c *cobra.Command, flags bool) string {
	line := strings.TrimSuffix(c.CommandPath(), c.Name()) + c.Use
	if flags {
		line += " [flags]"
	}
	return line
}

func writeFlags(b *bytes.Buffer, flags *pflag.FlagSet) {
	b.WriteString("| flag | default | meaning |\n|---|---|---|\n")
	flags.VisitAll(func(f *pflag.Flag) {
		name, text := pflag.UnquoteUsage(f)
		flag := "`--" + f.Name
		if f.Shorthand != "" {
			flag = "`-" + f.Shorthand + "`, " + flag
		}
		switch {
		case name != "" && f.NoOptDefVal != "" && f.Value.Type() != "bool":
			flag += "[=" + name + "]"
		case name != "":
			flag += " " + name
		}
		value := f.DefValue
		switch value {
		case "", "[]", "0s", "false":
			value = ""
		default:
			value = "`" + value + "`"
		}
		fmt.Fprintf(b, "| %s` | %s | %s |\n", flag, value, strings.ReplaceAll(text, "|", "\\|"))
	})
}

// TestExitStatusesAreDocumented, all of them and no others.
func TestExitStatusesAreDocumented(t *testing.T) {
	page, err := os.ReadFile("../../docs/guide.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, found := strings.Cut(string(page), "\n## Exit status\n")
	var have []int
	for _, m := range regexp.MustCompile(`(?m)^\| (\d+) \|`).FindAllStringSubmatch(table, -1) {
		n, err := strconv.Atoi(m[1])
		if err != nil {
			t.Fatal(err)
		}
		have = append(have, n)
	}
	if want := []int{exitDone, exitFailed, exitUsage, exitRefused, exitMissed, exitChanges}; !found || !slices.Equal(have, want) {
		t.Errorf("the guide lists the exit statuses %v, and the commands have %v", have, want)
	}
}

// TestEveryRuleIsDocumented: what a finding or a refusal is called is what a reader looks for. The tables of findings and checks are compared with the
// code by tests of their packages.
func TestEveryRuleIsDocumented(t *testing.T) {
	page, err := os.ReadFile("../../docs/findings.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := map[string]bool{}
	for _, m := range regexp.MustCompile("(?m)^\\| `([a-z0-9-]+)` \\|").FindAllStringSubmatch(string(page), -1) {
		rows[m[1]] = true
	}
	elsewhere := map[string]bool{cluster.RuleSources: true}
	for _, id := range preflight.IDs() {
		elsewhere[id] = true
	}
	code := map[string]bool{}
	for id, where := range rulesInSource(t) {
		code[id] = true
		if !rows[id] && !elsewhere[id] {
			t.Errorf("%s: the rule `%s` has no row in docs/findings.md", where, id)
		}
	}
	_, refusals, found := strings.Cut(string(page), "\n## Refusals\n")
	if !found {
		t.Fatal("docs/findings.md has no table of refusals")
	}
	for _, m := range regexp.MustCompile("(?m)^\\| `([a-z0-9-]+)` \\|").FindAllStringSubmatch(refusals, -1) {
		if !code[m[1]] {
			t.Errorf("docs/findings.md lists the refusal `%s`, which the code does not have", m[1])
		}
	}
}

// rulesInSource are the values of all constants that are called Rule…, and those that are written where a refusal is made.
func rulesInSource(t *testing.T) map[string]string {
	t.Helper()
	out := map[string]string{}
	for _, file := range filesIn(t, []string{"../../internal"}, ".go") {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(parsed, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.ValueSpec:
				for i, name := range n.Names {
					if strings.HasPrefix(name.Name, "Rule") && i < len(n.Values) {
						if id, literal := literalOf(n.Values[i]); literal {
							out[id] = file
						}
					}
				}
			case *ast.KeyValueExpr:
				if key, is := n.Key.(*ast.Ident); is && key.Name == "Rule" {
					if id, literal := literalOf(n.Value); literal {
						out[id] = file
					}
				}
			}
			return true
		})
	}
	if len(out) < 100 {
		t.Fatalf("only %d rules were found", len(out))
	}
	return out
}

func literalOf(e ast.Expr) (string, bool) {
	l, is := e.(*ast.BasicLit)
	if !is || l.Kind != token.STRING {
		return "", false
	}
	s, err := strconv.Unquote(l.Value)
	return s, err == nil && regexp.MustCompile(`^[a-z0-9-]+$`).MatchString(s)
}

// examplePaths are those that a reader chooses, and those of other programs.
var examplePaths = strings.Fields(`/root/ /mnt/ /srv/ /home /dev/ /etc/prometheus /etc/ssl/our-ca.crt /etc/kubernetes/patches/kube-apiserverz+strategic.yaml
	/var/lib/quorate/clusters/quorate/kubeconfig /var/lib/quorate/labs/test /etc/environment /etc/fstab /etc/apt /etc/nftables.conf`)

// TestEveryPathOnHostsExists: a file that a page names on hosts is one that the code names. Parts in capitals, wildcards, and braces stand for several.
func TestEveryPathOnHostsExists(t *testing.T) {
	var literals []string
	for _, file := range slices.Concat(filesIn(t, []string{"../../internal", "../../cmd", "../../components"}, ".go"), filesIn(t, []string{"../../internal"}, ".yaml")) {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		if !strings.HasSuffix(file, ".go") {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			literals = append(literals, string(data))
			continue
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(parsed, func(n ast.Node) bool {
			if l, is := n.(*ast.BasicLit); is && l.Kind == token.STRING {
				if s, err := strconv.Unquote(l.Value); err == nil {
					literals = append(literals, s)
				}
			}
			return true
		})
	}
	all := strings.Join(literals, "\n")
	// In the code, a path is often a directory and a name. So a name counts if it is a literal of its own, or the last part of one, and its directory exists.
	names := map[string]bool{}
	for _, l := range literals {
		if !strings.ContainsAny(l, " \n") {
			names[path.Base(l)] = true
		}
	}
	var exists func(p string) bool
	exists = func(p string) bool {
		dir, name := path.Split(strings.TrimSuffix(p, "/"))
		whole := regexp.MustCompile(regexp.QuoteMeta(strings.TrimSuffix(p, "/")) + `(?:[^\w-]|$)`)
		return p == "/" || whole.MatchString(all) || names[name] && exists(dir)
	}
	if !exists("/var/lib/quorate/found.json") || exists("/var/lib/quorate/no-such-file.json") || exists("/var/lib/no-such-directory/found.json") {
		t.Fatal("the test does not see what it should")
	}
	found := 0
	for _, file := range filesIn(t, []string{"../../README.md", "../../docs"}, ".md") {
		if strings.Contains(file, "/decisions/") {
			continue
		}
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile("(?:^|[\\s`(=:])(/(?:etc|var|opt|usr|run|root|lib|mnt|srv|home|dev)/[\\w.{},*<>+@/-]+)").FindAllStringSubmatch(string(data), -1) {
			p := strings.TrimRight(m[1], ".,:")
			if slices.ContainsFunc(examplePaths, func(e string) bool { return strings.HasPrefix(p, e) }) {
				continue
			}
			found++
			for _, one := range braces(p) {
				// What follows the first part that stands for others is not in the code.
				if at := regexp.MustCompile(`[*<]|/[A-Z]{2,}|-[A-Z]{4,}`).FindStringIndex(one); at != nil {
					one = one[:at[0]]
					one = one[:strings.LastIndex(one, "/")+1]
				}
				if !exists(one) {
					t.Errorf("%s names %s, and no code does", file, p)
				}
			}
		}
	}
	if found < 150 {
		t.Errorf("only %d paths were found", found)
	}
}

// braces expands {a,b} as a shell does.
func braces(p string) []string {
	before, rest, open := strings.Cut(p, "{")
	inner, after, closed := strings.Cut(rest, "}")
	if !open || !closed {
		return []string{p}
	}
	var out []string
	for _, choice := range strings.Split(inner, ",") {
		out = append(out, before+choice+after)
	}
	return out
}

// TestLinksLead: a link in a page leads to a file that is there, and to a heading in it.
func TestLinksLead(t *testing.T) {
	link := regexp.MustCompile(`\]\(([^)\s]+)\)`)
	heading := regexp.MustCompile(`(?m)^#+ (.*)$`)
	headings := map[string]map[string]bool{}
	anchors := func(file, text string) map[string]bool {
		if headings[file] == nil {
			headings[file] = map[string]bool{}
			for _, m := range heading.FindAllStringSubmatch(text, -1) {
				headings[file][anchor(m[1])] = true
			}
		}
		return headings[file]
	}
	for _, file := range filesIn(t, []string{"../../README.md", "../../docs"}, ".md") {
		page, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range link.FindAllStringSubmatch(string(page), -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			to, at, _ := strings.Cut(m[1], "#")
			target := file
			if to != "" {
				target = path.Join(path.Dir(file), to)
			}
			if _, err := os.Stat(target); err != nil {
				t.Errorf("%s has a link to %s: %v", file, m[1], err)
				continue
			}
			if at == "" {
				continue
			}
			text, err := os.ReadFile(target)
			if err != nil {
				t.Fatal(err)
			}
			if !anchors(target, string(text))[at] {
				t.Errorf("%s has a link to %s, and that page has no such heading", file, m[1])
			}
		}
	}
}

// anchor is how a link names a heading.
func anchor(heading string) string {
	heading = regexp.MustCompile(`\[([^\]]*)\]\([^)]*\)`).ReplaceAllString(heading, "$1")
	heading = regexp.MustCompile(`[^\w\- ]`).ReplaceAllString(strings.ToLower(heading), "")
	return strings.ReplaceAll(strings.TrimSpace(heading), " ", "-")
}

// TestEveryVariableIsDocumented: what the environment changes is in the guide.
func TestEveryVariableIsDocumented(t *testing.T) {
	guide, err := os.ReadFile("../../docs/guide.md")
	if err != nil {
		t.Fatal(err)
	}
	variable := regexp.MustCompile(`"(QUORATE_[A-Z_]+)"`)
	found := 0
	for _, file := range filesIn(t, []string{"../../internal", "../../cmd"}, ".go") {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		source, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range variable.FindAllStringSubmatch(string(source), -1) {
			if found++; !strings.Contains(string(guide), "`"+m[1]+"`") {
				t.Errorf("%s reads %s, which the guide does not name", file, m[1])
			}
		}
	}
	if found < 4 {
		t.Errorf("only %d variables were found", found)
	}
}

// TestEveryFieldIsNamedWhereItIsExplained: docs/editing.md lists all fields of the spec, and what an edit means; what a field is for is on another page.
func TestEveryFieldIsNamedWhereItIsExplained(t *testing.T) {
	const list = "../../docs/editing.md"
	page, err := os.ReadFile(list)
	if err != nil {
		t.Fatal(err)
	}
	var others []byte
	for _, file := range filesIn(t, []string{"../../README.md", "../../docs"}, ".md") {
		if file == list || file == commandsFile || strings.Contains(file, "/decisions/") {
			continue
		}
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		others = append(others, text...)
	}
	rows := regexp.MustCompile("(?m)^\\| `((?:spec|metadata)\\.[^`]+)` \\|").FindAllStringSubmatch(string(page), -1)
	if len(rows) < 100 {
		t.Fatalf("only %d fields were found", len(rows))
	}
	for _, m := range rows {
		name := strings.TrimSuffix(m[1][strings.LastIndex(m[1], ".")+1:], "[]")
		if !regexp.MustCompile(`\b` + name + `\b`).Match(others) {
			t.Errorf("no page says what %s is for", m[1])
		}
	}
}
