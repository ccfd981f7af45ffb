// Package cli is the command line: one file per command, flags in, a library call, rendering out.
package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"quorate.dev/quorate/components"
	"quorate.dev/quorate/internal/bundle"
	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/host"
	"quorate.dev/quorate/internal/machines"
	"quorate.dev/quorate/internal/paths"
	"quorate.dev/quorate/internal/progress"
	"quorate.dev/quorate/internal/registry"
	"quorate.dev/quorate/internal/run"
	"quorate.dev/quorate/internal/spec"
	"quorate.dev/quorate/internal/ui"
)

// Exit statuses.
const (
	exitDone    = 0
	exitFailed  = 1
	exitUsage   = 2
	exitRefused = 3
	exitMissed  = 4 // a drill missed an objective
	exitChanges = 5 // plan --detailed-exitcode has changes
)

// app holds what all commands share.
type app struct {
	in       io.Reader
	out, err io.Writer // out remembers errors, in printed
	printed  *output
	stdout   io.Writer // what out writes to, for programs that are to have the terminal themselves

	file    string
	output  string
	timeout time.Duration
	stop    context.CancelFunc // of timeout
	verbose bool

	askSudo       bool
	strictKeys    bool
	acceptNewKeys bool
	ask           func(question string) (string, error) // without an echo
	askAloud      func(question string) (string, error)
	access        *host.Access
}

// HostSide runs the host side and ends the process, if the process was started for that. Whoever reaches hosts copies its own program to them, so that every program
// that does so, and is not quorate itself, calls HostSide first. It is also the watchdog of load balancers then, and the program of pods.
func HostSide() {
	if len(os.Args) > 1 && os.Args[1] == "host" {
		os.Exit(Main(context.Background(), os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
	}
}

// Main runs the command line and returns the exit status.
func Main(ctx context.Context, args []string, in io.Reader, out, errOut io.Writer) int {
	a := &app{in: in, stdout: out, err: errOut, stop: func() {}, ask: askTerminal, askAloud: askTerminalAloud}
	defer func() { a.stop() }()
	a.out, a.printed = remembering(out)
	root := a.root()
	root.SetArgs(args)
	root.SetIn(in)
	root.SetErr(errOut)
	return a.ended(root.ExecuteContext(ctx))
}

// ended says why a command has failed, and returns the exit status.
func (a *app) ended(err error) int {
	var silent *statusError
	if lost := a.printed.err; lost != nil && (err == nil || errors.As(err, &silent) || errors.Is(err, lost)) {
		fmt.Fprintf(a.err, "quorate: writing the output: %v\n", lost)
		if err == nil && a.printed.goesOn {
			fmt.Fprintln(a.err, "Only the output is lost: the command did everything else.")
		}
		return exitFailed
	}
	if err == nil {
		return exitDone
	}
	if !errors.As(err, &silent) {
		fmt.Fprintf(a.err, "quorate: %v\n%s", err, whoMay(err))
	}
	return exitStatus(err)
}

// whoMay says what to do where the directories of Quorate on this machine are not the user's.
func whoMay(err error) string {
	failed, is := errors.AsType[*fs.PathError](err)
	if !is || !errors.Is(failed, fs.ErrPermission) {
		return ""
	}
	for dir, or := range map[string]string{paths.Cache(): ", or set QUORATE_CACHE to a directory of your own", paths.State(): ", or set QUORATE_STATE to a directory of your own", "/run/quorate": ""} {
		if failed.Path == dir || strings.HasPrefix(failed.Path, dir+"/") {
			return "Run it as root" + or + ".\n"
		}
	}
	return ""
}

// usageError is an invalid command line or invalid input. The exit status is 2.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// statusError ends with an exit status and no message.
type statusError struct{ code int }

func (e *statusError) Error() string { return fmt.Sprintf("exit status %d", e.code) }

func exitStatus(err error) int {
	var (
		own     *statusError
		usage   usageError
		invalid spec.Errors
		refusal *cluster.Refusal
		forged  *bundle.SignatureError
		new     *host.UnconfirmedError
		version *bundle.UnknownVersionError
		unread  *paths.UnreadableError
		ref     *registry.ReferenceError
	)
	switch {
	case errors.As(err, &own):
		return own.code
	case errors.As(err, &usage), errors.As(err, &invalid):
		return exitUsage
	case errors.As(err, &refusal), errors.As(err, &forged), errors.As(err, &new):
		return exitRefused
	case errors.As(err, &version), errors.As(err, &unread), errors.As(err, &ref): // what the user named is not there
		return exitUsage
	}
	return exitFailed
}

// root is the tree of all commands. What a command refuses by its flags and arguments alone is refused in its PreRunE, which neither reads nor changes
// anything: tests have it read the command lines that the documentation and the fixes of findings name.
func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "quorate",
		Short: "Build and check highly available Kubernetes clusters",
		Long: `Quorate builds highly available Kubernetes clusters, proves that they are highly available, and keeps them that way.

Give it hosts that it can reach over SSH and a cluster.yaml. Without any hosts, it creates its own on this machine: run
quorate up.`,
		SilenceUsage:  true,
		SilenceErrors: true,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			if cmd.Annotations[readsAnnotation] == "" {
				a.printed.outlivesReader()
			}
			if err := a.knownOutput(cmd); err != nil {
				return err
			}
			if a.timeout < 0 {
				return usageError{fmt.Errorf("--timeout %s: use a time above 0, such as 10m", a.timeout)}
			}
			if a.timeout > 0 {
				var ctx context.Context
				ctx, a.stop = context.WithTimeoutCause(cmd.Context(), a.timeout, fmt.Errorf("the command did not finish within --timeout %s", a.timeout))
				cmd.SetContext(ctx)
			}
			return a.prepareAccess(cmd)
		},
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usageError{fmt.Errorf("%w; see %s --help", err, cmd.CommandPath())}
	})
	flags := root.PersistentFlags()
	flags.StringVarP(&a.file, "file", "f", "", "the spec (default: ./cluster.yaml if it exists, otherwise the cluster that up created)")
	flags.StringVarP(&a.output, "output", "o", "text", "output format: text, json, or yaml")
	flags.DurationVar(&a.timeout, "timeout", 0, "time limit for the whole command (default: none)")
	flags.BoolVarP(&a.verbose, "verbose", "v", false, "print more details")
	flags.BoolVar(&a.askSudo, "ask-sudo-password", false, "prompt for the sudo password of the hosts (or set "+host.SudoPasswordVariable+")")
	flags.BoolVar(&a.strictKeys, "strict-host-keys", false, "connect only to hosts whose SSH host keys are known, and record no new keys")
	flags.BoolVar(&a.acceptNewKeys, "accept-new-host-keys", false, "trust SSH host keys that are seen for the first time, without asking")
	root.AddCommand(sendsSecrets(a.up()), a.down(), a.init(), reads(a.validate()), reads(a.preflight()), reads(a.plan()), sendsSecrets(a.apply()), reads(a.status()), a.dashboard(), reads(a.audit()), a.drill(), a.maintain(), a.reset(), sendsSecrets(a.repair()), sendsSecrets(a.watch()), sendsSecrets(a.backup()), sendsSecrets(a.restore()), sendsSecrets(a.recover()), reads(a.certs()), a.kubeconfig(), a.monitoring(),
		a.bundle(), a.lab(), reads(a.size()), a.host(), reads(a.version()))
	root.SetOut(a.out) // first: the command that prints completions keeps it
	root.InitDefaultCompletionCmd()
	for _, cmd := range root.Commands() {
		if cmd.Name() == "completion" {
			for _, shell := range cmd.Commands() {
				reads(shell)
			}
		}
	}
	strict(root)
	root.SetHelpCommand(reads(&cobra.Command{
		Use:   "help [COMMAND]",
		Short: "Show what a command does, and its flags",
		RunE: func(cmd *cobra.Command, args []string) error {
			of, rest, err := root.Find(args)
			if err != nil || len(rest) > 0 {
				return usageError{fmt.Errorf("unknown command %q; see quorate --help", strings.Join(args, " "))}
			}
			return of.Help()
		},
	}))
	return root
}

// outputsAnnotation lists the formats of a command that has others than text, json, and yaml.
const outputsAnnotation = "outputs"

// outputs says in which formats a command prints.
func outputs(cmd *cobra.Command, formats ...string) *cobra.Command {
	if cmd.Annotations == nil {
		cmd.Annotations = map[string]string{}
	}
	cmd.Annotations[outputsAnnotation] = strings.Join(formats, " ")
	return cmd
}

// knownOutput refuses a format that the command does not have before it does anything: a command that has changed hosts must not end as if
// the command line had been wrong.
func (a *app) knownOutput(cmd *cobra.Command) error {
	formats := []string{"text", "json", "yaml"}
	if own := cmd.Annotations[outputsAnnotation]; own != "" {
		formats = strings.Fields(own)
	}
	if slices.Contains(formats, a.output) {
		return nil
	}
	last := len(formats) - 1
	list := strings.Join(formats[:last], ", ") + ", or " + formats[last]
	if last == 1 {
		list = formats[0] + " or " + formats[1]
	}
	return usageError{fmt.Errorf("unknown output %q: must be %s", a.output, list)}
}

// strict turns wrong arguments and unknown commands into usage errors, for this command and its subcommands.
func strict(c *cobra.Command) {
	for _, sub := range c.Commands() {
		strict(sub)
	}
	if c.HasSubCommands() && c.RunE == nil {
		c.Args = cobra.ArbitraryArgs
		c.SuggestionsMinimumDistance = 2
		c.RunE = func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return cmd.Help()
			}
			hint := ""
			if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
				hint = fmt.Sprintf("; did you mean %q?", near[0])
			}
			return usageError{fmt.Errorf("unknown command %q for %q%s; see %s --help", args[0], cmd.CommandPath(), hint, cmd.CommandPath())}
		}
		return
	}
	check := c.Args
	if check == nil {
		check = cobra.NoArgs
	}
	c.Args = func(cmd *cobra.Command, args []string) error {
		if err := check(cmd, args); err != nil {
			return usageError{fmt.Errorf("%w; see %s --help", err, cmd.CommandPath())}
		}
		return nil
	}
}

// specPath returns the path of the spec: -f, else ./cluster.yaml, else the cluster that up created.
func (a *app) specPath() (string, error) {
	if a.file != "" {
		return a.file, nil
	}
	if _, err := os.Stat(usualFile); err == nil {
		return usualFile, nil
	}
	if path, ok := machines.Current(); ok {
		return path, nil
	}
	return "", usageError{errors.New("no spec: ./cluster.yaml does not exist, and `quorate up` has not created a cluster; pass a spec with -f, write one with `quorate init`, or run `quorate up`")}
}

// load reads and checks the spec. If lab is true, hosts may lack an address.
func (a *app) load(path string, lab bool) (*spec.Cluster, error) {
	return a.check(path, spec.Options{Versions: bundle.Versions(), Lab: lab})
}

func (a *app) check(path string, o spec.Options) (*spec.Cluster, error) {
	data, err := spec.Read(path)
	if err != nil {
		return nil, usageError{err}
	}
	c, err := spec.Check(data, path, o)
	if err != nil {
		return nil, err
	}
	dir, err := filepath.Abs(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	c.RelativeTo(dir)
	for _, f := range c.SettingsFiles() {
		content, err := paths.Read(f.Path)
		if err != nil {
			return nil, c.Wrong(f.Field, err.Error(), "correct the path, which is relative to the spec")
		}
		if err := c.Attach(f, content); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// cluster reads the spec of a cluster whose hosts the command will connect to. The checks are those of arguments that only the spec can
// tell right from wrong: they come before anybody is asked anything, and before any host is.
func (a *app) cluster(ctx context.Context, checks ...func(*spec.Cluster) error) (*spec.Cluster, error) {
	return a.unlocked(ctx, spec.Options{Versions: bundle.Versions()}, checks)
}

// running is cluster for commands that need no bundle: the cluster can be older than every version that can be built.
func (a *app) running(ctx context.Context, checks ...func(*spec.Cluster) error) (*spec.Cluster, error) {
	return a.unlocked(ctx, anyManaged(), checks)
}

// anyManaged accepts the specs of all clusters that this quorate can work with, also of those that it cannot build.
func anyManaged() spec.Options {
	return spec.Options{Versions: bundle.Versions(), Managed: components.Managed()}
}

// named reads a spec of which only the name is of interest: the machines of a lab stay when quorate is replaced.
func (a *app) named(path string) (*spec.Cluster, error) {
	o := anyManaged()
	o.Lab = true
	return a.check(path, o)
}

// open connects to the hosts: to read only, if the command is to change nothing.
func open(ctx context.Context, c *spec.Cluster, sink progress.Sink, dryRun bool) *run.Engine {
	if dryRun {
		return run.OpenToRead(ctx, c, sink)
	}
	return run.Open(ctx, c, sink)
}

func (a *app) unlocked(ctx context.Context, o spec.Options, checks []func(*spec.Cluster) error) (*spec.Cluster, error) {
	c, err := a.addressed(o)
	if err != nil {
		return nil, err
	}
	for _, check := range checks {
		if err := check(c); err != nil {
			return nil, err
		}
	}
	a.unlock(ctx, c)
	return c, nil
}

// addressed reads the spec of a cluster whose hosts exist. The hosts of a spec without addresses are those of its lab.
func (a *app) addressed(o spec.Options) (*spec.Cluster, error) {
	path, err := a.specPath()
	if err != nil {
		return nil, err
	}
	o.Lab = true
	c, err := a.check(path, o)
	if err != nil {
		return nil, err
	}
	if !c.NeedsLab() {
		o.Lab = false
		return a.check(path, o)
	}
	return machines.Open(c)
}

// progress shows the progress of a command on stderr.
func (a *app) progress() (progress.Sink, func()) {
	return ui.NewProgress(a.err, ui.Options{Verbose: a.verbose})
}

// print writes a result in the requested format; text renders it for -o text.
func (a *app) print(v any, text func(io.Writer) error) error { return a.printTo(a.out, v, text) }

// unfinished is the result of a command that can end while it waits for something.
type unfinished interface{ Unfinished() bool }

// printDone prints what a command did. If another run has to finish it, the exit status is 1: scripts do not read what was printed.
func (a *app) printDone(r unfinished, text func(io.Writer) error) error {
	if err := a.print(r, text); err != nil {
		return err
	}
	if r.Unfinished() {
		return &statusError{exitFailed}
	}
	return nil
}

func (a *app) printTo(w io.Writer, v any, text func(io.Writer) error) error {
	switch a.output {
	case "text":
		return text(w)
	case "json":
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		return enc.Encode(v)
	case "yaml":
		data, err := yaml.Marshal(v)
		if err != nil {
			return err
		}
		_, err = w.Write(data)
		return err
	}
	return usageError{fmt.Errorf("unknown output %q: must be text, json, or yaml", a.output)}
}
