package system

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"quorate.dev/quorate/internal/host"
)

// Command is a program that runs on the host. Operations start all programs with it.
//
// A program gets a process group of its own, none of this process's environment but PATH and HOME, and the files of
// Inherit. When ctx ends, the whole group is terminated; when this process is killed, the kernel kills the program.
type Command struct {
	Name string
	Args []string
	// As is the name by which the program is called (argv[0]); Name if it is empty.
	As string
	// Stdin is what the program reads; nothing if it is nil.
	Stdin io.Reader
	// Inputs are open files that the program finds at the paths Input(0), Input(1), and so on.
	Inputs []*os.File
	// Env is set in addition, as NAME=value.
	Env []string
	// Proxies gives the program the proxy settings of the session. Only package managers need them: they are the only
	// programs that connect to addresses outside of the cluster.
	Proxies bool
	// Finish lets the program run to its end even if ctx ends or this process is killed, because half of what it does would
	// have to be repaired by hand. It still holds what it inherits.
	Finish bool
}

// Run runs a program and returns its last lines in the error if it fails.
func Run(ctx context.Context, name string, args ...string) error {
	return Command{Name: name, Args: args}.Run(ctx)
}

// Output runs a program and returns what it printed on stdout. If the program fails, the error wraps an *exec.ExitError,
// and the output is returned nevertheless.
func Output(ctx context.Context, name string, args ...string) ([]byte, error) {
	return Command{Name: name, Args: args}.Output(ctx)
}

// Run runs the program and returns its last lines in the error if it fails.
func (c Command) Run(ctx context.Context) error {
	_, err := c.CombinedOutput(ctx)
	return err
}

// Output runs the program and returns what it printed on stdout.
func (c Command) Output(ctx context.Context) ([]byte, error) {
	stdout, err := printed()
	if err != nil {
		return nil, err
	}
	defer stdout.Close()
	stderr, err := printed()
	if err != nil {
		return nil, err
	}
	defer stderr.Close()
	err = c.run(ctx, stdout, stderr)
	return contents(stdout), err
}

// CombinedOutput runs the program and returns what it printed on stdout and stderr.
func (c Command) CombinedOutput(ctx context.Context) ([]byte, error) {
	out, err := printed()
	if err != nil {
		return nil, err
	}
	defer out.Close()
	err = c.run(ctx, out, out)
	return contents(out), err
}

// printed is a file in memory for the output of a program. Unlike a pipe, it does not break when this process ends, and it
// does not keep Wait from returning while a grandchild has it open.
func printed() (*os.File, error) {
	fd, err := unix.MemfdCreate("output", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("creating a file for the output of a program: %w", err)
	}
	return os.NewFile(uintptr(fd), "output"), nil
}

func contents(f *os.File) []byte {
	info, err := f.Stat()
	if err != nil {
		return nil
	}
	data, _ := io.ReadAll(io.NewSectionReader(f, 0, info.Size()))
	return data
}

// stopTimeout is how long a program may take to end after SIGTERM.
var stopTimeout = 5 * time.Second

func (c Command) run(ctx context.Context, stdout, stderr *os.File) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if c.Finish {
		ctx = context.WithoutCancel(ctx)
	}
	cmd := exec.CommandContext(ctx, c.Name, c.Args...)
	if c.As != "" {
		cmd.Args[0] = c.As
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = c.Stdin, stdout, stderr
	cmd.Env = c.environment()
	cmd.ExtraFiles = append(slices.Clone(c.Inputs), inherited()...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if c.Finish {
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // nor does the end of the session's terminal end it
	}
	cmd.Cancel = func() error { return signalGroup(cmd, syscall.SIGTERM) }
	cmd.WaitDelay = stopTimeout
	// The kernel kills the program when the thread that started it ends, so the thread has to stay until then.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	err := cmd.Run()
	if ctx.Err() != nil {
		signalGroup(cmd, syscall.SIGKILL) //nolint:errcheck // the rest of the group
		if err != nil {
			return context.Cause(ctx)
		}
	}
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w: %s", strings.Join(append([]string{c.Name}, c.Args...), " "), err, LastLines(contents(stderr), 12))
}

func signalGroup(cmd *exec.Cmd, s syscall.Signal) error {
	if cmd.Process == nil {
		return nil
	}
	err := syscall.Kill(-cmd.Process.Pid, s)
	if errors.Is(err, syscall.ESRCH) {
		return os.ErrProcessDone
	}
	return err
}

var process struct {
	mu        sync.Mutex
	inherited []*os.File
	proxies   []string
}

// Inherit gives all programs that are started from now on an open file. A lock on it is held until the last of them, and
// this process, have ended.
func Inherit(f *os.File) {
	process.mu.Lock()
	defer process.mu.Unlock()
	process.inherited = append(process.inherited, f)
}

func inherited() []*os.File {
	process.mu.Lock()
	defer process.mu.Unlock()
	return slices.Clone(process.inherited)
}

// Isolate makes this process, the host side of a session, independent of the session's environment: of its umask, its
// PATH, and its variables, which kubeadm would write into manifests and Kubernetes' client would obey. It keeps the
// proxy settings for package managers. Call it before anything else.
func Isolate() error {
	unix.Umask(0o022)
	variables := os.Environ()
	process.mu.Lock()
	process.proxies = slices.DeleteFunc(slices.Clone(variables), func(v string) bool { return !IsProxy(v) })
	process.mu.Unlock()
	os.Clearenv()
	for _, v := range []string{"PATH=" + host.SearchPath, "HOME=/root", "LC_ALL=C"} {
		name, value, _ := strings.Cut(v, "=")
		if err := os.Setenv(name, value); err != nil {
			return err
		}
	}
	return nil
}

// IsProxy recognizes HTTP_PROXY, https_proxy, no_proxy and similar variables, by kubeadm's rule.
func IsProxy(variable string) bool {
	name, _, _ := strings.Cut(variable, "=")
	return strings.HasSuffix(strings.ToLower(name), "_proxy")
}

// Proxies are the proxy settings of the session, as NAME=value.
func Proxies() []string {
	process.mu.Lock()
	defer process.mu.Unlock()
	return slices.Clone(process.proxies)
}

func (c Command) environment() []string {
	out := []string{"LC_ALL=C"}
	for _, name := range []string{"PATH", "HOME"} {
		if value, ok := os.LookupEnv(name); ok {
			out = append(out, name+"="+value)
		}
	}
	if c.Proxies {
		out = append(out, Proxies()...)
	}
	return append(out, c.Env...)
}
