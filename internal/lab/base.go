package lab

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"quorate.dev/quorate/internal/durable"
	"quorate.dev/quorate/internal/paths"
	"quorate.dev/quorate/internal/progress"
)

func baseRoot(base string) string { return filepath.Join(base, "root") }

// EnsureBase returns the directory of the Debian image that all machines of such a lab share. The image is built once
// for each recipe, kept in the cache, and checked for damage before every use.
func EnsureBase(ctx context.Context, cfg Config) (string, error) {
	sink := cfg.Progress
	if sink == nil {
		sink = progress.Discard
	}
	dir := paths.Cache("lab", "base-"+recipeKey(cfg))
	if intact(dir) == nil {
		return dir, nil
	}
	err := os.MkdirAll(filepath.Dir(dir), 0o755)
	if err != nil {
		return "", fmt.Errorf("build the lab's base image: %w", err)
	}
	unlock, err := lock(ctx, paths.Cache("lab", ".base.lock"))
	if err != nil {
		return "", fmt.Errorf("build the lab's base image: %w", err)
	}
	defer unlock()
	switch err := intact(dir); {
	case err == nil:
		return dir, nil // built by another process in the meantime
	case !errors.Is(err, os.ErrNotExist):
		sink.Emit(note("lab/base/damaged", fmt.Sprintf("the lab's base image is damaged (%v) and is rebuilt", err)))
	}
	what := []string{"Debian " + suites[cfg.image()]}
	if more := cfg.AllPackages(); len(more) > 0 {
		what = append(what, "with "+strings.Join(more, ", "))
	}
	err = progress.Track(ctx, sink, "", "lab/base", "base image ("+strings.Join(what, " ")+")", func(ctx context.Context) error {
		return makeBase(ctx, cfg, dir, sink)
	})
	if err != nil {
		return "", fmt.Errorf("build the lab's base image: %w", err)
	}
	return dir, nil
}

// recipeKey changes with everything that goes into the image, except the packages' versions.
func recipeKey(cfg Config) string {
	h := sha256.New()
	const format = 2 // of the image's directory
	fmt.Fprintln(h, format, suites[cfg.image()], usual, excluded, files, cfg.masked(), cfg.generators(), disabled, removed)
	if more := cfg.AllPackages(); len(more) > 0 { // profiles that come later do not change an image without them
		fmt.Fprintln(h, more, ofProfiles)
	}
	return hex.EncodeToString(h.Sum(nil))[:12]
}

func makeBase(ctx context.Context, cfg Config, dir string, sink progress.Sink) error {
	parent := filepath.Dir(dir)
	if err := removeStale(parent); err != nil {
		return err
	}
	tmp, err := os.MkdirTemp(parent, ".base-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	if err := os.Chmod(tmp, 0o755); err != nil { // users other than root access the image on machines
		return err
	}
	root, err := Bootstrap(ctx, cfg.image(), slices.Concat(usual, cfg.AllPackages()), tmp, sink)
	if err != nil {
		return err
	}
	if err := customize(cfg, root); err != nil {
		return err
	}
	sum, err := summary(root)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(tmp, "summary"), []byte(sum), 0o644); err != nil {
		return err
	}
	return durable.Rename(tmp, dir)
}

// removeStale removes what a killed process left behind. The caller holds the lock.
func removeStale(parent string) error {
	old, err := filepath.Glob(filepath.Join(parent, ".base-*"))
	for _, path := range old {
		err = errors.Join(err, os.RemoveAll(path))
	}
	return err
}

// Bootstrap installs a plain Debian with these packages to a new directory in dir, and returns that directory. image is one of Images. It runs
// mmdebstrap with the caller's own Debian mirror and apt settings where it has any, writes these to dir as well, and needs root.
func Bootstrap(ctx context.Context, image string, packages []string, dir string, sink progress.Sink) (root string, err error) {
	suite, ok := suites[image]
	if !ok {
		return "", fmt.Errorf("there is no image %q: must be one of %s", image, strings.Join(Images, ", "))
	}
	mmdebstrap, err := tool("mmdebstrap")
	if err != nil {
		return "", err
	}
	root = baseRoot(dir)
	apt, mirrors := filepath.Join(dir, "apt.conf"), filepath.Join(dir, "mirrors.list")
	settings := aptSettings(ctx) + "APT::Install-Recommends \"false\";\nAcquire::Retries \"3\";\n"
	if err := os.WriteFile(apt, []byte(settings), 0o600); err != nil {
		return "", err
	}
	dpkg := []string{"--dpkgopt=force-unsafe-io"}
	for _, path := range excluded {
		dpkg = append(dpkg, "--dpkgopt=path-exclude="+path)
	}
	args := append([]string{"--variant=minbase", "--format=directory", "--include=" + strings.Join(packages, ","), "--aptopt=" + apt}, dpkg...)
	args = append(args, suite, root)
	if list := aptMirrors(ctx, suite); list != "" {
		if err := os.WriteFile(mirrors, []byte(list), 0o600); err != nil {
			return "", err
		}
		args = append(args, mirrors)
	}
	cmd := exec.CommandContext(ctx, mmdebstrap, args...)
	// It has its own mount namespace and process group, so its mounts and its children end with it.
	cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true, Unshareflags: unix.CLONE_NEWNS, Pdeathsig: unix.SIGKILL}
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	var log bytes.Buffer
	lines, w := io.Pipe()
	cmd.Stdout, cmd.Stderr = w, w
	read := make(chan struct{})
	go func() {
		defer close(read)
		scan := bufio.NewScanner(io.TeeReader(lines, &log))
		for scan.Scan() {
			if text, ok := strings.CutPrefix(scan.Text(), "I: "); ok {
				sink.Emit(progress.Event{Time: time.Now(), Kind: progress.Note, ID: "lab/base", Detail: text})
			}
		}
		io.Copy(io.Discard, lines)
	}()
	err = cmd.Run()
	w.Close()
	<-read
	if ctx.Err() != nil {
		return "", context.Cause(ctx)
	}
	if err != nil {
		out := strings.Split(strings.TrimSpace(log.String()), "\n")
		return "", fmt.Errorf("mmdebstrap: %w\n  %s\nCheck that this machine can reach its Debian mirror (`apt-get update`), then try again",
			err, strings.Join(out[max(0, len(out)-8):], "\n  "))
	}
	return root, nil
}

// aptSettings are the caller's apt settings for reaching its mirror: proxies, timeouts, and checks of dates.
func aptSettings(ctx context.Context) string {
	out, err := exec.CommandContext(ctx, "apt-config", "dump").Output()
	if err != nil {
		return "" // not a Debian machine
	}
	var keep strings.Builder
	for line := range strings.Lines(string(out)) {
		for _, prefix := range []string{"Acquire::http::", "Acquire::https::", "Acquire::Check-", "Acquire::ForceIPv"} {
			if strings.HasPrefix(line, prefix) {
				keep.WriteString(line)
			}
		}
	}
	return keep.String()
}

// aptMirrors are the caller's sources for a suite. There are none if the caller does not run Debian; mmdebstrap then uses Debian's own.
func aptMirrors(ctx context.Context, suite string) string {
	out, err := exec.CommandContext(ctx, "apt-get", "indextargets", "--format", "$(SITE) $(RELEASE) $(COMPONENT)", "Created-By: Packages").Output()
	if err != nil {
		return ""
	}
	return mirrorsOf(string(out), suite)
}

// mirrorsOf are the sources for a suite among apt's targets, each a line of site, release, and component. A mirror has all suites of Debian: where
// only another one is configured, as on a caller with another release, its sites are used.
func mirrorsOf(targets, suite string) string {
	others := slices.Sorted(maps.Values(suites))
	others = slices.DeleteFunc(others, func(other string) bool { return other == suite })
	for _, configured := range append([]string{suite}, others...) {
		var list strings.Builder
		complete := false
		for line := range strings.Lines(targets) {
			f := strings.Fields(line)
			if len(f) != 3 || f[2] != "main" {
				continue
			}
			pocket, ok := strings.CutPrefix(f[1], configured)
			if !ok || !slices.Contains([]string{"", "-updates", "-security"}, pocket) {
				continue
			}
			complete = complete || pocket == ""
			fmt.Fprintf(&list, "deb %s %s%s main\n", f[0], suite, pocket)
		}
		if complete {
			return list.String()
		}
	}
	return ""
}

// intact compares the image with the summary that was written when it was built.
func intact(dir string) error {
	want, err := os.ReadFile(filepath.Join(dir, "summary"))
	if err != nil {
		return err
	}
	have, err := summary(baseRoot(dir))
	if err != nil {
		return err
	}
	if have != string(want) {
		return errors.New("files are missing or have changed")
	}
	return nil
}

// summary is a digest of every path, mode and size. It takes milliseconds, while a digest of the content would take seconds.
func summary(root string) (string, error) {
	h := sha256.New()
	var line []byte
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		line = append(line[:0], path[len(root):]...)
		line = strconv.AppendUint(append(line, 0), uint64(info.Mode()), 16)
		if !d.IsDir() { // whose size depends on the filesystem
			line = strconv.AppendInt(append(line, ' '), info.Size(), 10)
		}
		_, err = h.Write(append(line, '\n'))
		return err
	})
	return hex.EncodeToString(h.Sum(nil)), err
}
