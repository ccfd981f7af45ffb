package programs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"quorate.dev/quorate/internal/durable"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/host"
	"quorate.dev/quorate/internal/hostside/blobs"
	"quorate.dev/quorate/internal/hostside/system"
	"quorate.dev/quorate/internal/render/hostconfig"
)

// SwitchRequest says which programs run from which bundle from now on.
type SwitchRequest struct {
	// Bundle is the digest of a bundle that is unpacked on the host.
	Bundle string
	// Programs are names as of facts.ProgramOf, in the order in which they are switched; those that the bundle does not have are
	// left out. None means all of them.
	Programs []string
	// Restart are the systemd units that run them.
	Restart []string
}

// Switch makes programs run from an unpacked bundle when they are started next. Each program is switched as a whole: at any
// moment, even after a power cut, it is the previous one or the new one. Programs that were put there by hand are replaced. It
// fails if a unit runs a program that would change, because the next crash would then start the new program.
var Switch = host.Define("programs.switch", func(ctx context.Context, r SwitchRequest) (struct{}, error) {
	if err := local.nothingRuns(ctx, r); err != nil {
		return struct{}{}, err
	}
	return struct{}{}, local.switchTo(ctx, r.Bundle, r.Programs)
})

// SwitchRunning is Switch for programs that run, and restarts their units.
var SwitchRunning = host.DefineChange("programs.switch-running", func(ctx context.Context, r SwitchRequest) (struct{}, error) {
	return struct{}{}, local.switchRunning(ctx, r, func() error {
		return system.Run(ctx, "systemctl", append([]string{"try-restart"}, r.Restart...)...)
	})
})

// SwitchWith is SwitchRunning for operations that are on the host already and start the units themselves.
func SwitchWith(ctx context.Context, r SwitchRequest, restart func() error) error {
	return local.switchRunning(ctx, r, restart)
}

// switchRunning records first what it is about to do, so that another run finishes it if this one is killed before the
// restart.
func (s store) switchRunning(ctx context.Context, r SwitchRequest, restart func() error) error {
	for _, p := range r.Programs {
		if err := durable.WriteFile(s.dir(pending, p), nil, 0o644); err != nil {
			return err
		}
	}
	if err := s.switchTo(ctx, r.Bundle, r.Programs); err != nil {
		return err
	}
	if err := restart(); err != nil {
		return err
	}
	for _, p := range r.Programs {
		if err := durable.Remove(s.dir(pending, p)); err != nil {
			return err
		}
	}
	return nil
}

// units run programs.
var units = map[string]string{facts.Containerd: "containerd.service", facts.RuncProgram: "containerd.service", facts.Kubelet: "kubelet.service", facts.EtcdProgram: hostconfig.EtcdUnit}

func (s store) nothingRuns(ctx context.Context, r SwitchRequest) error {
	state, err := s.read(ctx)
	if err != nil {
		return err
	}
	programs := r.Programs
	if len(programs) == 0 {
		programs = facts.SwitchOrder
	}
	for _, p := range programs {
		if units[p] == "" || state.Programs[p] == r.Bundle {
			continue
		}
		found, err := system.Units(ctx, units[p])
		if err != nil {
			return err
		}
		if u := found[units[p]]; u.Active == "active" || u.Active == "activating" {
			return fmt.Errorf("%s runs %s from another bundle, and would have to restart: run it again", units[p], p)
		}
	}
	return nil
}

func (s store) switchTo(ctx context.Context, bundle string, programs []string) error {
	d, err := digest.Parse(bundle)
	if err != nil {
		return fmt.Errorf("bundle %q: %w", bundle, err)
	}
	m, err := s.mark(d.Encoded())
	if err != nil {
		return fmt.Errorf("bundle %s is not unpacked here: %w", bundle, err)
	}
	problems, err := s.verify(ctx, m)
	if err != nil {
		return err
	}
	if len(problems) > 0 {
		return fmt.Errorf("bundle %s is damaged here: %s", bundle, strings.Join(problems, "; "))
	}
	if len(programs) == 0 {
		programs = m.programs()
	}
	for _, p := range programs {
		if !slices.Contains(facts.SwitchOrder, p) {
			return fmt.Errorf("there is no program %q", p)
		}
		if err := s.switchOne(m, p); err != nil {
			return fmt.Errorf("switching %s to bundle %s: %w", p, bundle, err)
		}
	}
	return nil
}

func (s store) switchOne(m *mark, program string) error {
	if len(m.of(program)) == 0 {
		return nil
	}
	link := s.dir(current, program)
	former, _ := s.linked(program) // whatever is there is replaced
	// Other links resolve through the switched link, so it is created before them, but after the copies.
	for _, copies := range []bool{true, false} {
		for _, e := range m.of(program) {
			if copied(e) == copies {
				if err := s.place(m, program, e); err != nil {
					return err
				}
			}
		}
		if copies {
			if err := durable.Symlink("../"+digest.Digest(m.Bundle).Encoded(), link); err != nil {
				return err
			}
		}
	}
	old, err := s.mark(former)
	if err != nil {
		return nil // there was no previous bundle, or its content is no longer known
	}
	for _, e := range old.of(program) {
		if m.entry(e.Path) == nil {
			if err := s.displace(program, e); err != nil {
				return err
			}
		}
	}
	return nil
}

// linked is the encoded digest of the bundle that a program runs from.
func (s store) linked(program string) (string, error) {
	target, err := os.Readlink(s.dir(current, program))
	if err != nil {
		return "", err
	}
	return filepath.Base(target), nil
}

// outer is where the host looks for a file of a program, and the target of the link there.
func (s store) outer(program string, e entry) (file, target string) {
	return filepath.Join(s.root, e.Path), s.dir(current, program, e.Path)
}

func copied(e entry) bool { return path.Dir(e.Path) == cniDir }

func (s store) place(m *mark, program string, e entry) error {
	file, target := s.outer(program, e)
	switch {
	case !copied(e):
		return durable.Symlink(target, file)
	case e.Target != "":
		return durable.Symlink(e.Target, file)
	}
	from, err := os.Open(s.dir(digest.Digest(m.Bundle).Encoded(), e.Path))
	if err != nil {
		return err
	}
	defer from.Close()
	f, err := durable.Create(file, e.Mode)
	if err != nil {
		return err
	}
	defer f.Abort()
	sum := newHashing(f)
	if _, err := io.Copy(sum, from); err != nil {
		return err
	}
	if sum.hex() != e.SHA256 {
		return fmt.Errorf("%s does not match the bundle: its content is sha256:%s", from.Name(), sum.hex())
	}
	// A file with the same time is known to be the same.
	if err := os.Chtimes(f.Name(), time.Time{}, time.Unix(0, e.Modified)); err != nil {
		return err
	}
	return f.Commit()
}

// displace takes away a file that the program no longer has, if it is what Quorate put there.
func (s store) displace(program string, e entry) error {
	file, target := s.outer(program, e)
	if copied(e) && e.Target == "" {
		problem, err := blobs.CheckFile(context.Background(), file, digest.NewDigestFromEncoded(digest.SHA256, e.SHA256))
		if problem != "" || err != nil {
			return err
		}
		return durable.Remove(file)
	}
	if copied(e) {
		target = e.Target
	}
	have, err := os.Readlink(file)
	if errors.Is(err, fs.ErrNotExist) || err == nil && have != target {
		return nil
	}
	if err != nil {
		return nil //nolint:nilerr // not a link, so not ours
	}
	return durable.Remove(file)
}
