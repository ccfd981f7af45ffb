package bundle

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"quorate.dev/quorate/components"
	"quorate.dev/quorate/internal/paths"
)

// goEnv makes a build depend on its inputs only. What says where modules come from (GOPROXY,
// GOSUMDB, GOPRIVATE) and where caches lie stays the caller's.
func goEnv(arch string, cgo bool) []string {
	env := []string{
		"GOFLAGS=-mod=readonly -buildvcs=false",
		"GOWORK=off",
		"GOTOOLCHAIN=local",
		"GOEXPERIMENT=",
		"GOOS=linux",
		"GOARCH=" + arch,
		"GOAMD64=v1",
		"GOARM64=v8.0",
		"CGO_ENABLED=0",
		"CC=" + compilerFor(arch), "CGO_CFLAGS=-O2 -g", "CGO_LDFLAGS=", "CGO_CPPFLAGS=",
	}
	if cgo {
		env = append(env, "CGO_ENABLED=1")
	}
	if os.Getenv("HOME") == "" { // as in a systemd unit
		if os.Getenv("GOCACHE") == "" && os.Getenv("XDG_CACHE_HOME") == "" {
			env = append(env, "GOCACHE="+paths.Cache("go-build"))
		}
		if os.Getenv("GOPATH") == "" {
			env = append(env, "GOPATH="+paths.Cache("go"))
		}
	}
	return env
}

// compileGo builds a component's binaries from the sources in work.src.
func (w *workshop) compileGo(ctx context.Context, c components.Component, dir workDir) ([]entry, error) {
	var entries []entry
	for _, group := range byTags(c.Go.Binaries) {
		if err := w.goBuild(ctx, c, group, dir); err != nil {
			return nil, err
		}
		for _, b := range group {
			entries = append(entries, entry{name: b.Path, mode: 0o755, source: dir.binary(b), netBindService: b.NetBindService})
		}
	}
	return entries, nil
}

// byTags groups binaries that one call of go build can make, in order.
func byTags(binaries []components.Binary) [][]components.Binary {
	var groups [][]components.Binary
	for _, b := range binaries {
		i := slices.IndexFunc(groups, func(g []components.Binary) bool { return slices.Equal(g[0].Tags, b.Tags) })
		if i < 0 {
			groups = append(groups, nil)
			i = len(groups) - 1
		}
		groups[i] = append(groups[i], b)
	}
	return groups
}

func (w *workshop) goBuild(ctx context.Context, c components.Component, group []components.Binary, dir workDir) error {
	build := c.Go
	tags := "-tags=" + strings.Join(slices.Concat(build.Tags, group[0].Tags), ",")
	libraries, err := w.libraries(ctx, c, dir)
	if err != nil {
		return err
	}
	env := slices.Concat(goEnv(w.arch, build.Cgo), libraries)
	var packages []string
	for _, b := range group {
		packages = append(packages, b.Package)
	}

	// Listing the packages fetches the modules that hold them, and no others.
	fetched := 0
	list := command{
		what: "list the packages of " + c.Name, dir: dir.src(), env: env,
		stderr: func(line string) bool {
			module, ok := strings.CutPrefix(line, "go: downloading ")
			if ok {
				fetched++
				w.note(c, fmt.Sprintf("downloaded %d modules, now %s", fetched-1, module))
			}
			return ok
		},
	}
	out, err := list.output(ctx, w.tools.goTool, append([]string{"list", "-trimpath", "-deps", tags}, packages...)...)
	if err != nil {
		return downloadError("the Go modules of "+c.Name+" "+c.Version, err)
	}
	all := map[string]bool{}
	for p := range strings.Lines(out) {
		all[strings.TrimSpace(p)] = true
	}

	compiled := 0
	run := command{
		what: "compile " + c.Name + " " + c.Version, dir: dir.src(), env: env,
		stderr: func(line string) bool {
			if !all[line] {
				return false
			}
			compiled++
			w.note(c, fmt.Sprintf("compiled %d of %d packages", compiled, len(all)))
			return true
		},
	}
	args := []string{"build", "-v", "-trimpath", tags, "-ldflags=" + ldflags(build)}
	for _, b := range group {
		out := dir.binary(b)
		if err := os.MkdirAll(filepath.Dir(out), 0o755); err != nil {
			return err
		}
		// One call each: go build names its results after packages, not as we want them. After the
		// first call most of the next one's packages are in Go's cache.
		if _, err := run.output(ctx, w.tools.goTool, slices.Concat(args, []string{"-o", out, b.Package})...); err != nil {
			return err
		}
	}
	return nil
}

// ldflags leave out symbols, debug information and the build ID, which would tie the result to more
// than its inputs.
func ldflags(build *components.GoBuild) string {
	flags := []string{"-s", "-w", "-buildid="}
	for _, name := range slices.Sorted(maps.Keys(build.Stamp)) {
		flags = append(flags, "-X="+name+"="+build.Stamp[name])
	}
	if build.Cgo {
		flags = append(flags, "-linkmode=external", `"-extldflags=-static -Wl,--build-id=none"`)
	}
	return strings.Join(flags, " ")
}

// downloadError recognizes a failed download by the output of a tool.
func downloadError(what string, err error) error {
	var failed *CommandError
	if !errors.As(err, &failed) {
		return err
	}
	hints := []struct{ sign, hint string }{
		{"checksum mismatch", "the module does not match go.sum: do not use this source; set GOPROXY to one that you trust"},
		{"SECURITY ERROR", "the module does not match go.sum: do not use this source; set GOPROXY to one that you trust"},
		{"no such host", "check this machine's DNS and network, or set GOPROXY to a proxy that it can reach; what was downloaded is kept"},
		{"dial tcp", "check this machine's network, or set GOPROXY to a proxy that it can reach; what was downloaded is kept"},
		{"timeout", "check this machine's network, or set GOPROXY to a proxy that it can reach; what was downloaded is kept"},
		{"connection re", "check this machine's network, or set GOPROXY to a proxy that it can reach; what was downloaded is kept"},
		{"unexpected EOF", "the connection was lost: run it again; what was downloaded is kept"},
		{"module lookup disabled", "GOPROXY is off: set it to a proxy that this machine can reach"},
		{"server response", "this proxy does not serve the module: set GOPROXY to one that does"},
		{"x509", "the proxy's certificate is not trusted: install ca-certificates"},
		{"no space left", "free some disk space; what was downloaded is kept"},
	}
	for _, h := range hints {
		if strings.Contains(failed.Output, h.sign) {
			return &DownloadError{What: what, Detail: lastLine(failed.Output), Hint: h.hint}
		}
	}
	return err
}

func lastLine(text string) string {
	text = strings.TrimSpace(text)
	return strings.TrimSpace(text[strings.LastIndex(text, "\n")+1:])
}
