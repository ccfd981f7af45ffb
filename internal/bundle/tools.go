package bundle

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"go/version"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
)

// MissingToolsError says which packages are missing that a build needs.
type MissingToolsError struct {
	Packages []string
	Why      []string
}

func (e *MissingToolsError) Error() string {
	return fmt.Sprintf("build bundle: %s; run `apt-get install -y --no-install-recommends %s`",
		strings.Join(e.Why, ", "), strings.Join(e.Packages, " "))
}

// GoError says that there is no Go toolchain that can build the bundle.
type GoError struct {
	Found string // version, empty if there is none
	Need  string
}

func (e *GoError) Error() string {
	if e.Found == "" {
		return fmt.Sprintf("build bundle: no Go toolchain found in PATH or /usr/local/go; install %s or newer from go.dev/dl, or import a bundle built elsewhere", e.Need)
	}
	return fmt.Sprintf("build bundle: the Go version is %s, but the pinned modules need %s; install it from go.dev/dl, or import a bundle built elsewhere", e.Found, e.Need)
}

// DownloadError says what could not be downloaded, why, and what to do.
type DownloadError struct {
	What   string
	Detail string
	Hint   string
}

func (e *DownloadError) Error() string {
	return fmt.Sprintf("download %s: %s; %s", e.What, e.Detail, e.Hint)
}

// CommandError is the failure of a tool, with the end of its output.
type CommandError struct {
	What   string
	Output string
	Err    error
}

func (e *CommandError) Error() string {
	if e.Output == "" {
		return fmt.Sprintf("%s: %v", e.What, e.Err)
	}
	return fmt.Sprintf("%s: %v:\n%s", e.What, e.Err, e.Output)
}

// Unwrap returns the cause, such as a canceled context.
func (e *CommandError) Unwrap() error { return e.Err }

// toolchain is what compiles: its versions are part of every result's key.
type toolchain struct {
	goTool    string
	goVersion string
	cVersion  string // gcc and libseccomp; empty where C is not needed
}

func findGo(ctx context.Context, need string) (toolchain, error) {
	path, err := exec.LookPath("go")
	if err != nil {
		// Where sudo or a service gives a short PATH, Go is usually still at its usual place.
		if path, err = exec.LookPath("/usr/local/go/bin/go"); err != nil {
			return toolchain{}, &GoError{Need: need}
		}
	}
	out, err := command{what: "ask Go for its version", env: goEnv(runtime.GOARCH, false)}.output(ctx, path, "env", "GOVERSION")
	if err != nil {
		return toolchain{}, err
	}
	found := strings.TrimSpace(out)
	// A toolchain of a distribution may append its own words.
	if plain, _, _ := strings.Cut(found, " "); version.Compare(plain, need) < 0 {
		return toolchain{}, &GoError{Found: found, Need: need}
	}
	return toolchain{goTool: path, goVersion: found}, nil
}

// findC checks for all that compiling C statically for an architecture needs, so that a build fails at its start and not
// after ten minutes.
func findC(ctx context.Context, arch string) (string, error) {
	gcc, libc, tool := Requirements(arch)[0], Requirements(arch)[1], compilerFor(arch)
	archives := map[string]string{libc: "libc.a"}
	if !foreign(arch) {
		archives["libseccomp-dev"] = "libseccomp.a"
	}
	missing := &MissingToolsError{}
	need := func(pkg, why string) {
		missing.Packages, missing.Why = append(missing.Packages, pkg), append(missing.Why, why)
	}
	var versions []string
	probe := command{what: "probe the C compiler"}
	if out, err := probe.output(ctx, tool, "-dumpfullversion"); err != nil {
		need(gcc, tool+" cannot be run")
		need(libc, "the headers of the C library are required")
		if !foreign(arch) {
			need("libseccomp-dev", "libseccomp is required")
		}
	} else {
		versions = append(versions, tool+" "+strings.TrimSpace(out))
		for pkg, archive := range archives {
			// gcc prints the bare name back when it does not find the file.
			if out, err := probe.output(ctx, tool, "-print-file-name="+archive); err != nil || !filepath.IsAbs(strings.TrimSpace(out)) {
				need(pkg, archive+" is missing")
			}
		}
	}
	if out, err := probe.output(ctx, "pkg-config", "--version"); err != nil {
		need("pkg-config", "pkg-config cannot be run")
	} else if versions = append(versions, "pkg-config "+strings.TrimSpace(out)); len(missing.Packages) == 0 && !foreign(arch) {
		out, err := probe.output(ctx, "pkg-config", "--modversion", "libseccomp")
		if err != nil {
			need("libseccomp-dev", "pkg-config does not find libseccomp")
		}
		versions = append(versions, "libseccomp "+strings.TrimSpace(out))
	}
	if len(missing.Packages) > 0 {
		if err := ctx.Err(); err != nil {
			return "", err
		}
		slices.Sort(missing.Packages)
		slices.Sort(missing.Why)
		return "", missing
	}
	return strings.Join(versions, ", "), nil
}

// command runs tools. Each gets a process group of its own, which a canceled context kills as a whole: go build has children
// that would otherwise compile on.
type command struct {
	what   string
	dir    string
	env    []string               // in addition to the caller's, and stronger
	stderr func(line string) bool // sees each line; true: not an error's text
}

func (c command) output(ctx context.Context, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = c.dir
	cmd.Env = append(os.Environ(), append([]string{"LC_ALL=C"}, c.env...)...)
	// The kernel ends the tool when the thread that started it ends: also if quorate is killed. So
	// the thread has to stay until the tool is done.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error {
		if err := syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			return err
		}
		return nil
	}
	cmd.WaitDelay = 5 * time.Second
	var stdout bytes.Buffer
	lines := &lineWriter{each: c.stderr}
	cmd.Stdout, cmd.Stderr = &stdout, lines
	if err := cmd.Run(); err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		return "", &CommandError{What: c.what, Output: lines.end(), Err: err}
	}
	return stdout.String(), nil
}

// lineWriter hands on each line and keeps the last of those that nobody claimed.
type lineWriter struct {
	each func(line string) bool
	part []byte
	tail []string
}

const tailLines = 40

func (w *lineWriter) Write(p []byte) (int, error) {
	w.part = append(w.part, p...)
	for {
		line, rest, ok := bytes.Cut(w.part, []byte("\n"))
		if !ok {
			return len(p), nil
		}
		w.line(string(line))
		w.part = bytes.Clone(rest)
	}
}

func (w *lineWriter) line(line string) {
	if w.each != nil && w.each(line) {
		return
	}
	if w.tail = append(w.tail, line); len(w.tail) > tailLines {
		w.tail = w.tail[1:]
	}
}

func (w *lineWriter) end() string {
	if len(w.part) > 0 {
		w.line(string(w.part))
		w.part = nil
	}
	return strings.Join(w.tail, "\n")
}
