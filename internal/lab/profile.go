package lab

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"quorate.dev/quorate/internal/durable"
)

// Profile makes a machine like certain real servers. Machines without one are as simple as a server can be.
type Profile struct {
	Name string
	// What says what is different on the machine, and Like which real servers are like that. Both begin in lower case and have no period.
	What, Like string
	// Packages are Debian packages that the image of the lab needs. Their units do not start by themselves.
	Packages []string
	// Files are written when the machine is created, over those of the image. {address} in a file is the address of the machine.
	Files []ProfileFile
	// Units are started when the machine boots, each by a target: sysinit.target/nftables.service.
	Units []string
	// Boot is a shell script that runs as root at each boot, before the machine accepts an SSH connection. A command that fails ends it. Its variables
	// ADDRESS, CALLER, and BASTION are addresses.
	Boot string
	// User is the user to log in as instead of root; sudo asks for a password.
	User string
	// MoreNICs is how many interfaces the machine has beyond the first, each in a network that machines with it share.
	MoreNICs int
	// Excludes are profiles that the same machine cannot have.
	Excludes []string
}

// ProfileFile is a file of a profile.
type ProfileFile struct {
	Path, Content string
	Mode          fs.FileMode
}

// profile finds a profile.
func profile(name string) (Profile, bool) {
	i := slices.IndexFunc(Profiles, func(p Profile) bool { return p.Name == name })
	if i < 0 {
		return Profile{}, false
	}
	return Profiles[i], true
}

// ProfileNames are the names of all profiles.
func ProfileNames() (names []string) {
	for _, p := range Profiles {
		names = append(names, p.Name)
	}
	return names
}

// ProfileTable is the documentation's table of profiles in Markdown.
func ProfileTable() string {
	var b strings.Builder
	b.WriteString("| profile | the machine | real servers like that |\n|---|---|---|\n")
	for _, p := range Profiles {
		fmt.Fprintf(&b, "| `%s` | %s | %s |\n", p.Name, p.What, p.Like)
	}
	return b.String()
}

// WithProfiles gives profiles to machines. Each choice is NAME[,NAME…] for all machines, or TARGET=NAME[,NAME…], where TARGET is a machine or
// zone/NAME. A machine has the profiles of all choices that concern it.
func WithProfiles(machines []Machine, choices []string) ([]Machine, error) {
	out := slices.Clone(machines)
	for i := range out {
		out[i].Profiles = slices.Clone(out[i].Profiles)
	}
	for _, choice := range choices {
		target, list, targeted := strings.Cut(choice, "=")
		if !targeted {
			target, list = "", choice
		}
		names := strings.Split(list, ",")
		for _, name := range names {
			if _, ok := profile(name); !ok {
				return nil, fmt.Errorf("profile %q: there is no profile %q: must be one of %s", choice, name, strings.Join(ProfileNames(), ", "))
			}
		}
		zone, ofZone := strings.CutPrefix(target, "zone/")
		found := false
		for i, m := range out {
			if targeted && (ofZone && m.Zone != zone || !ofZone && m.Name != target) {
				continue
			}
			found = true
			for _, name := range names {
				if !slices.Contains(out[i].Profiles, name) {
					out[i].Profiles = append(out[i].Profiles, name)
				}
			}
		}
		if !found {
			return nil, fmt.Errorf("profile %q: there is no machine or zone %q: must be zone/NAME, or one of %s", choice, target, namesOf(machines))
		}
	}
	for i := range out {
		slices.Sort(out[i].Profiles)
	}
	return out, checkProfiles(out)
}

func namesOf(machines []Machine) string {
	var names []string
	for _, m := range machines {
		names = append(names, m.Name)
	}
	return strings.Join(names, ", ")
}

// checkProfiles refuses profiles that do not exist or cannot be combined.
func checkProfiles(machines []Machine) error {
	bastions := 0
	for _, m := range machines {
		for _, name := range m.Profiles {
			p, ok := profile(name)
			if !ok {
				return fmt.Errorf("machine %s: there is no profile %q: must be one of %s", m.Name, name, strings.Join(ProfileNames(), ", "))
			}
			for _, other := range p.Excludes {
				if slices.Contains(m.Profiles, other) {
					return fmt.Errorf("machine %s: the profiles %s and %s exclude each other", m.Name, name, other)
				}
			}
		}
		if slices.Contains(m.Profiles, bastion) {
			bastions++
		}
	}
	if bastions > 1 {
		return fmt.Errorf("%d machines have the profile %s: a lab has one bastion (use %s=%s)", bastions, bastion, machines[0].Name, bastion)
	}
	return nil
}

// profilesOf are the profiles of a machine, in the order in which they are applied.
func profilesOf(m Machine) (out []Profile) {
	for _, p := range Profiles {
		if slices.Contains(m.Profiles, p.Name) {
			out = append(out, p)
		}
	}
	return out
}

// profilePackages are the packages that the profiles of machines need, sorted.
func profilePackages(machines []Machine) (out []string) {
	for _, m := range machines {
		for _, p := range profilesOf(m) {
			out = append(out, p.Packages...)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// User is the user to log in to a machine as: root, unless a profile of the machine forbids that.
func (m Machine) User() string {
	for _, p := range profilesOf(m) {
		if p.User != "" {
			return p.User
		}
	}
	return "root"
}

// bastionOf finds the machine through which the others are reached.
func bastionOf(machines []Machine) (Machine, bool) {
	i := slices.IndexFunc(machines, func(m Machine) bool { return slices.Contains(m.Profiles, bastion) })
	if i < 0 {
		return Machine{}, false
	}
	return machines[i], true
}

// Jump is the jump host through which a machine is reached, as user@address:port; empty if there is none.
func (l *Lab) Jump(m Machine) string {
	b, ok := bastionOf(l.rec.Machines)
	if !ok || b.Name == m.Name {
		return ""
	}
	return b.User() + "@" + net.JoinHostPort(b.Address.String(), "22")
}

// SudoPassword is the path of a file with the password for sudo on machines whose User is not root; empty if there are none.
func (l *Lab) SudoPassword() string {
	if !slices.ContainsFunc(l.rec.Machines, func(m Machine) bool { return m.User() != "root" }) {
		return ""
	}
	return filepath.Join(l.dir, "ssh", "sudo_password")
}

// makeSudoPassword creates the lab's password for sudo when it is first needed.
func (l *Lab) makeSudoPassword() error {
	file := l.SudoPassword()
	if _, err := os.Stat(file); file == "" || !errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	random := make([]byte, 12)
	rand.Read(random)
	return durable.WriteFile(file, []byte(hex.EncodeToString(random)), 0o600)
}

const (
	bootUnit   = "lab-profiles.service"
	bootScript = "/usr/lib/quorate-lab/profiles"
	bootLog    = "/var/log/lab-profiles.log"
	// passwordFile is gone after the first boot, when the user has the password.
	passwordFile = "/etc/lab-password"
)

// profileFiles are the files that the profiles of a machine add to it, in the order in which they are written.
func (l *Lab) profileFiles(m Machine) ([]ProfileFile, error) {
	script := bootOf(m, l.rec.Machines, host(l.Subnet(), callerHost).String())
	if script == "" && len(m.Profiles) == 0 {
		return nil, nil
	}
	fill := strings.NewReplacer("{address}", m.Address.String())
	var out []ProfileFile
	for _, p := range profilesOf(m) {
		for _, f := range p.Files {
			out = append(out, ProfileFile{f.Path, fill.Replace(f.Content), f.Mode})
		}
	}
	if m.User() != "root" {
		password, err := os.ReadFile(l.SudoPassword())
		if err != nil {
			return nil, err
		}
		out = append(out, ProfileFile{passwordFile, fmt.Sprintf("%s:%s\n", m.User(), password), 0o600})
	}
	if script == "" {
		return out, nil
	}
	return append(out, ProfileFile{bootScript, script, 0o755},
		// A machine whose profiles could not be applied accepts no connections, so that it is not taken for another one. Nor does it before PAM admits
		// users other than root.
		ProfileFile{"/etc/systemd/system/ssh.service.d/profiles.conf", "[Unit]\nRequires=" + bootUnit + "\nAfter=" + bootUnit + " systemd-user-sessions.service\n", 0o644},
		ProfileFile{"/etc/systemd/system/" + bootUnit, `[Unit]
Description=Profiles of this lab machine
DefaultDependencies=no
Wants=network-pre.target
After=local-fs.target systemd-tmpfiles-setup.service nftables.service
Before=network-pre.target ssh.service shutdown.target
Conflicts=shutdown.target

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh -e ` + bootScript + `
`, 0o644}), nil
}

// bootOf is the script that applies the profiles of a machine at each boot, and what the bastion of the lab means for it. It is empty if there is
// nothing to do.
func bootOf(m Machine, machines []Machine, caller string) string {
	var parts []string
	for _, p := range profilesOf(m) {
		if p.Boot != "" {
			parts = append(parts, "# "+p.Name+"\n"+p.Boot)
		}
	}
	b, has := bastionOf(machines)
	if has && b.Name != m.Name {
		parts = append(parts, "# behind the bastion "+b.Name+"\n"+behindBastion)
	}
	if len(parts) == 0 {
		return ""
	}
	address := ""
	if has {
		address = b.Address.String()
	}
	return fmt.Sprintf("exec >%s 2>&1\nset -x\nADDRESS=%s CALLER=%s BASTION=%s\n", bootLog, m.Address, caller, address) + strings.Join(parts, "")
}

// applyProfiles writes the files and enables the units of a machine's profiles in the upper directory of its root.
func (l *Lab) applyProfiles(m Machine, upper string) error {
	files, err := l.profileFiles(m)
	if err != nil {
		return err
	}
	for _, f := range files {
		if err := l.makeParents(upper, f.Path, l.layers()); err != nil {
			return err
		}
		path := filepath.Join(upper, f.Path)
		if err := os.WriteFile(path, []byte(f.Content), f.Mode); err != nil {
			return err
		}
		if err := os.Chmod(path, f.Mode); err != nil { // whatever the umask is, and if the file was there
			return err
		}
	}
	for _, p := range profilesOf(m) {
		for _, unit := range p.Units {
			target, name, _ := strings.Cut(unit, "/")
			link := "/etc/systemd/system/" + target + ".wants/" + name
			if err := l.makeParents(upper, link, l.layers()); err != nil {
				return err
			}
			if err := os.Symlink("/usr/lib/systemd/system/"+name, filepath.Join(upper, link)); err != nil && !errors.Is(err, fs.ErrExist) {
				return err
			}
		}
	}
	return nil
}
