package watch

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/crypto/ssh"

	"quorate.dev/quorate/internal/durable"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/hostside/files"
	"quorate.dev/quorate/internal/render/hostconfig"
)

// Admission is whom a host admits, and what they may do there.
type Admission struct {
	facts.WatchAdmits
	// Keep names control planes that could not be asked for their key: those that were admitted before stay admitted.
	Keep []string `json:"keep,omitempty"`
	Approved
	// Reach are the addresses and names to which they may have the host connect.
	Reach []string `json:"reach"`
}

// Approved is what may be restored on a host: what the spec that was applied last says about it.
type Approved struct {
	// Files are the digests of files with everything that belongs to them (see SumOf), and Sysctls, Modules, and Enable as in
	// facts.Desired.
	Files   []string          `json:"files"`
	Sysctls map[string]string `json:"sysctls,omitempty"`
	Modules []string          `json:"modules,omitempty"`
	Enable  []string          `json:"enable,omitempty"`
	// Configs are the digests of kubeadm's configurations for the host (see SumOfConfig).
	Configs []string `json:"configs,omitempty"`
}

// Approve is what may be restored of d, with kubeadm's configurations.
func Approve(d facts.Desired, configs ...string) Approved {
	a := Approved{Sysctls: d.Sysctls, Modules: d.Modules, Enable: d.Enable}
	for _, f := range d.Files {
		a.Files = append(a.Files, SumOf(f))
	}
	for _, c := range configs {
		a.Configs = append(a.Configs, SumOfConfig(c))
	}
	return a
}

// SumOf is the digest of a file with its mode, and with what is done when it changes.
func SumOf(f facts.File) string {
	f.ClusterCA = false // says where the content comes from
	text, err := json.Marshal(f)
	if err != nil { // it is plain data
		return ""
	}
	return facts.Sum(text)
}

var tokenLine = regexp.MustCompile(`(?m)^(\s*(?:- )?token: )\S*$`)

// SumOfConfig is the digest of a configuration of kubeadm, without the token, which is another one each time.
func SumOfConfig(text string) string {
	return facts.Sum(tokenLine.ReplaceAll([]byte(text), []byte("$1")))
}

// Allows returns an error unless all that is desired is approved.
func (a Approved) Allows(d facts.Desired) error {
	refuse := func(what string) error {
		return fmt.Errorf("%s is not as it was when the spec was last applied, so it is not restored unattended: run `quorate repair`, or `quorate apply`", what)
	}
	for _, f := range d.Files {
		if !slices.Contains(a.Files, SumOf(f)) && !drained(f) {
			return refuse(f.Key())
		}
	}
	for key, value := range d.Sysctls {
		if have, ok := a.Sysctls[key]; !ok || have != value {
			return refuse(key)
		}
	}
	for _, list := range []struct{ want, have []string }{{d.Modules, a.Modules}, {d.Enable, a.Enable}} {
		for _, name := range list.want {
			if !slices.Contains(list.have, name) {
				return refuse(name)
			}
		}
	}
	if len(d.Absent) > 0 || d.Self != "" && d.Self != hostconfig.SelfPath {
		return refuse(strings.Join(append(slices.Clone(d.Absent), d.Self), " "))
	}
	return nil
}

var serverName = regexp.MustCompile(`^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$`)

// drained says that a file is the list of the API servers that get no clients, which is another one each time.
func drained(f facts.File) bool {
	names := strings.Split(strings.TrimSuffix(f.Content, "\n"), "\n")
	return f.Path == hostconfig.DrainedFile && SumOf(f) == SumOf(hostconfig.Drained(names)) && !slices.ContainsFunc(names, func(n string) bool { return !serverName.MatchString(n) })
}

// AllowsConfig returns an error unless the configuration of kubeadm is approved.
func (a Approved) AllowsConfig(text string) error {
	if slices.Contains(a.Configs, SumOfConfig(text)) {
		return nil
	}
	return errors.New("kubeadm's configuration is not as it was when the spec was last applied, so nothing is restored with it unattended: run `quorate repair`, or `quorate apply`")
}

// ReadAdmission reads whom this host admits. The error is fs.ErrNotExist if it admits nobody.
func ReadAdmission() (Admission, error) { return readAdmission("") }

func readAdmission(root string) (a Admission, err error) {
	err = readJSON(root, facts.WatchAdmissionFile, &a)
	return a, err
}

// write makes the admission valid. The note is written first: without it, a key that is admitted may do nothing.
func (a Admission) write(root string) error {
	former, err := readAdmission(root)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		former = Admission{} // it cannot be read, and is written again
	}
	units := map[string]facts.WatchUnit{}
	maps.Copy(units, a.Units)
	a.Units = units
	for _, name := range a.Keep {
		if u, had := former.Units[name]; had {
			a.Units[name] = u
		}
	}
	a.Keep, a.Broken = nil, ""
	lines, err := a.lines()
	if err != nil {
		return err
	}
	if former.User != "" && former.User != a.User {
		if err := setKeys(root, former.User, ""); err != nil {
			return err
		}
	}
	text, err := json.Marshal(a)
	if err != nil {
		return err
	}
	if err := write(root, facts.WatchAdmissionFile, text); err != nil {
		return err
	}
	return setKeys(root, a.User, lines)
}

// lines are those of authorized_keys. Each key is admitted from the address of its control plane alone, for one command: the copy of
// quorate on this host, within its limits.
func (a Admission) lines() (string, error) {
	command := hostconfig.SelfPath + ` host serve --for-repairs "$SSH_ORIGINAL_COMMAND"`
	if a.User != "root" {
		command = "sudo -n " + command
	}
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(a.Units)) {
		u := a.Units[name]
		key, _, options, rest, err := ssh.ParseAuthorizedKey([]byte(u.Key))
		if err == nil && (len(options) > 0 || len(rest) > 0 || net.ParseIP(u.Address) == nil || !serverName.MatchString(name)) {
			err = errors.New("it is not one key of one host at one address")
		}
		if err != nil {
			return "", fmt.Errorf("admitting the key of %q at %q: %w", name, u.Address, err)
		}
		fmt.Fprintf(&b, "restrict,from=\"%s\",command=\"%s\" %s quorate-watch-of-%s\n", u.Address, strings.ReplaceAll(command, `"`, `\"`), oneLine(key), name)
	}
	return b.String(), nil
}

// broken says why the units that a host admits cannot log in.
func (a Admission) broken(root string) string {
	lines, err := a.lines()
	if err != nil {
		return err.Error()
	}
	path, _, err := keysOf(root, a.User)
	if err != nil {
		return err.Error()
	}
	if sum, err := files.Sum(path + "#" + facts.WatchBlock); err != nil || sum != facts.Sum([]byte(lines)) {
		return "its lines in " + path + " are missing or were changed"
	}
	return ""
}

// Revoke admits nobody any more.
func Revoke(root string) error {
	a, err := readAdmission(root)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil || a.User == "" {
		a.User = "root"
	}
	if err := setKeys(root, a.User, ""); err != nil {
		return err
	}
	return durable.Remove(filepath.Join(root, facts.WatchAdmissionFile))
}

// keysOf is the user's authorized_keys.
func keysOf(root, name string) (string, *user.User, error) {
	u, err := user.Lookup(name)
	if err != nil {
		return "", nil, fmt.Errorf("finding the home directory of %s: %w", name, err)
	}
	return filepath.Join(root, u.HomeDir, ".ssh/authorized_keys"), u, nil
}

// setKeys replaces Quorate's lines in the user's authorized_keys; no lines remove them. The other lines, the owner, and the mode stay.
func setKeys(root, name, lines string) error {
	path, u, err := keysOf(root, name)
	if err != nil {
		return err
	}
	_, err = os.Stat(path)
	there := err == nil
	if !there && (lines == "" || !errors.Is(err, fs.ErrNotExist)) {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	if there {
		return files.SetBlock(path, facts.WatchBlock, lines)
	}
	uid, err := strconv.Atoi(u.Uid)
	if err != nil {
		return err
	}
	gid, err := strconv.Atoi(u.Gid)
	if err != nil {
		return err
	}
	dir := filepath.Dir(path)
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		if err := errors.Join(durable.MkdirAll(dir, 0o700), os.Chown(dir, uid, gid)); err != nil {
			return err
		}
	}
	if err := durable.WriteFile(path, nil, 0o600); err != nil {
		return err
	}
	if err := os.Chown(path, uid, gid); err != nil {
		return err
	}
	return files.SetBlock(path, facts.WatchBlock, lines)
}
