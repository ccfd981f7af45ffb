// Package sshconfig finds out how the caller's OpenSSH reaches hosts, and writes that into their section ssh of a spec. OpenSSH itself
// evaluates its configuration, with Include, Match, and patterns (`ssh -G`), so that the result is what `ssh HOST` does.
package sshconfig

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"quorate.dev/quorate/internal/paths"
	"quorate.dev/quorate/internal/spec"
)

// Config evaluates a configuration of OpenSSH.
type Config struct {
	query  func(ctx context.Context, defaults bool, host string) (string, error)
	lookup func(ctx context.Context, name string) ([]string, error)
}

// Open is for the configuration in a file; an empty name stands for what ssh reads without being told: the user's and the system's.
func Open(file string) *Config {
	return &Config{query: func(ctx context.Context, defaults bool, host string) (string, error) {
		args := []string{"-G"}
		switch {
		case defaults:
			args = append(args, "-F", os.DevNull)
		case file != "":
			args = append(args, "-F", paths.Expand(file))
		}
		out, err := exec.CommandContext(ctx, "ssh", append(args, "--", host)...).Output()
		var exit *exec.ExitError
		switch {
		case errors.Is(err, exec.ErrNotFound):
			return "", errors.New("reading the configuration of OpenSSH: there is no program ssh on this machine; install it, or write the section ssh of each host")
		case errors.As(err, &exit):
			return "", fmt.Errorf("reading the configuration of OpenSSH for %s: %s", host, cmp.Or(strings.TrimSpace(string(exit.Stderr)), err.Error()))
		case err != nil:
			return "", fmt.Errorf("reading the configuration of OpenSSH for %s: %w", host, err)
		}
		return string(out), nil
	}, lookup: net.DefaultResolver.LookupHost}
}

// Apply fills in what the hosts do not say themselves: the address, and how SSH reaches it. Notes are for the user: what of the
// configuration has no counterpart, and what to look at.
func (c *Config) Apply(ctx context.Context, hosts []spec.Host) (notes []string, err error) {
	for i := range hosts {
		if hosts[i].Name == "" {
			continue // validation says that
		}
		more, err := c.apply(ctx, &hosts[i])
		if err != nil {
			return nil, err
		}
		for _, n := range more {
			if !slices.Contains(notes, n) {
				notes = append(notes, n)
			}
		}
	}
	for _, n := range spec.GatewayPorts(hosts) {
		if !slices.Contains(notes, n) {
			notes = append(notes, n)
		}
	}
	return notes, nil
}

// options are what ssh would use for a host, by name in lower case, with what it would use without a configuration.
type options struct {
	host      string
	is, usual map[string][]string
}

func (o options) one(name string) string {
	if v := o.is[name]; len(v) > 0 {
		return v[0]
	}
	return ""
}

// configured are the values of an option that the configuration changes; nil if it does not.
func (o options) configured(name string) []string {
	if slices.Equal(slices.Sorted(slices.Values(o.is[name])), slices.Sorted(slices.Values(o.usual[name]))) {
		return nil
	}
	return o.is[name]
}

// any says that the configuration sets anything that is used here.
func (o options) any() bool {
	return slices.ContainsFunc([]string{"user", "port", "identityfile", "userknownhostsfile", "proxyjump"}, func(name string) bool { return len(o.configured(name)) > 0 })
}

func (c *Config) options(ctx context.Context, host string) (options, error) {
	o := options{host: host}
	for _, q := range []struct {
		defaults bool
		into     *map[string][]string
	}{{false, &o.is}, {true, &o.usual}} {
		text, err := c.query(ctx, q.defaults, host)
		if err != nil {
			return o, err
		}
		*q.into = parse(text)
	}
	return o, nil
}

// parse reads what `ssh -G` prints: an option and its value on each line.
func parse(text string) map[string][]string {
	out := map[string][]string{}
	for line := range strings.Lines(text) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), " "); ok {
			name = strings.ToLower(name)
			out[name] = append(out[name], strings.TrimSpace(value))
		}
	}
	return out
}

func (c *Config) apply(ctx context.Context, h *spec.Host) (notes []string, err error) {
	note := func(format string, args ...any) { notes = append(notes, fmt.Sprintf(format, args...)) }
	o, err := c.options(ctx, h.Name)
	if err != nil {
		return nil, err
	}
	if o.one("hostname") == h.Name && h.Address != "" && !o.any() { // it has nothing of the name, and may have patterns of addresses
		if o, err = c.options(ctx, h.SSHAddress()); err != nil {
			return nil, err
		}
	}
	name := o.one("hostname")
	switch _, notAddress := netip.ParseAddr(name); {
	case h.Address != "" && h.SSH.Address == "" && name != h.Address && name != h.Name: // where the port is, too
		h.SSH.Address = name
	case h.Address != "" && o.host == h.SSH.Address && h.SSH.Address != "": // it may be an alias, as ansible_host may be
		h.SSH.Address = name
	case h.Address != "":
	case notAddress == nil:
		h.Address = name
	default:
		if found := Usable(c.lookup(ctx, name)); found != "" {
			h.Address = found
			note("The address of %s is %s, as %s resolves on this machine. The other hosts must reach it there.", h.Name, found, name)
		} else {
			note("%s has no address: %s does not resolve to one on this machine. Write the address into the spec.", h.Name, name)
		}
	}
	s := &h.SSH
	if login := o.one("user"); s.User == "" && login != spec.DefaultSSHUser {
		s.User = login
	}
	if port, err := strconv.Atoi(o.one("port")); s.Port == 0 && err == nil && port != spec.DefaultSSHPort {
		s.Port = port
	}
	if s.KeyFile == "" {
		key, more := o.key()
		s.KeyFile, notes = key, append(notes, more...)
	}
	if files := o.configured("userknownhostsfile"); s.KnownHostsFile == "" && len(files) > 0 {
		if file := strings.Fields(files[0])[0]; file == os.DevNull || file == "none" {
			note("The configuration of OpenSSH remembers no key of %s. Quorate does, and refuses another one: set ssh.hostKey in the spec if it changes.", h.Name)
		} else {
			s.KnownHostsFile = file
		}
	}
	if jump := o.one("proxyjump"); s.Jump == "" && jump != "" && jump != "none" {
		hops, more, err := c.hops(ctx, jump, 0)
		if err != nil {
			return nil, err
		}
		notes = append(notes, more...)
		var list, keys []string
		for _, hop := range hops {
			list, keys = append(list, hop.String()), append(keys, hop.key)
		}
		s.Jump = strings.Join(list, ",")
		if all := spec.OneForAll(keys); s.JumpKeyFile == "" && all != s.KeyFile {
			s.JumpKeyFile = all
		}
		for i, used := range s.JumpKeyFiles() {
			if i < len(hops) && hops[i].key != used {
				note("OpenSSH uses %s on the jump host %s of %s, and Quorate uses %s. With an agent that has all of the keys, remove the key files.",
					cmp.Or(hops[i].key, "the usual keys"), hops[i].host, h.Name, used)
			}
		}
	}
	for option, advice := range map[string]string{
		"proxycommand":  "use ProxyJump, or set ssh.jump in the spec",
		"hostkeyalias":  "Quorate looks host keys up by the address; set ssh.hostKey in the spec",
		"identityagent": "set SSH_AUTH_SOCK to it when you run Quorate",
	} {
		if v := o.configured(option); len(v) > 0 && v[0] != "none" && v[0] != "SSH_AUTH_SOCK" {
			note("The configuration of OpenSSH sets %s for %s, which Quorate does not use: %s.", option, h.Name, advice)
		}
	}
	slices.Sort(notes)
	return notes, nil
}

// key is the key file that is configured; empty for the usual ones and those of the agent. Of several files, it is the first that exists.
func (o options) key() (file string, notes []string) {
	files := o.configured("identityfile")
	for i, f := range files {
		files[i] = o.expand(f)
	}
	exists := func(f string) bool { _, err := os.Stat(paths.Expand(f)); return err == nil }
	for _, f := range files {
		for _, name := range []string{f, f + ".pub"} { // the agent may have the key of a public one
			if file == "" && exists(name) {
				file = name
			}
		}
	}
	switch {
	case len(files) > 0 && file == "":
		notes = append(notes, fmt.Sprintf("The key of the configuration of OpenSSH for %s does not exist (%s): Quorate uses the usual ones, and those of the agent.", o.host, files[0]))
	case len(files) > 1:
		notes = append(notes, fmt.Sprintf("The configuration of OpenSSH has %d keys for %s, of which Quorate uses %s.", len(files), o.host, file))
	}
	named := file
	if named == "" && len(files) > 0 {
		named = files[0]
	}
	for _, certificate := range o.configured("certificatefile") {
		certificate = o.expand(certificate)
		if beside := strings.TrimSuffix(named, ".pub") + "-cert.pub"; paths.Expand(certificate) != paths.Expand(beside) {
			notes = append(notes, fmt.Sprintf("The configuration of OpenSSH has the certificate %s for %s. Quorate uses the one next to the key: link or copy it to %s.", certificate, o.host, beside))
		}
	}
	return file, notes
}

// expand fills in the tokens of ssh_config(5) that `ssh -G` leaves as they are.
func (o options) expand(path string) string {
	if !strings.Contains(path, "%") {
		return path
	}
	local := ""
	if u, err := user.Current(); err == nil {
		local = u.Username
	}
	return strings.NewReplacer("%%", "%", "%h", o.one("hostname"), "%n", o.host, "%p", o.one("port"), "%r", o.one("user"), "%u", local, "%d", filepath.Clean(paths.Expand("~/"))).Replace(path)
}

// hop is a jump host, and the key that is configured for it.
type hop struct{ user, host, port, key string }

// String is the hop as the spec has it.
func (h hop) String() string {
	if h.port == strconv.Itoa(spec.DefaultSSHPort) {
		return h.user + "@" + h.host
	}
	return h.user + "@" + net.JoinHostPort(h.host, h.port)
}

// most is how many jump hosts may lie on the way to another.
const most = 8

// hops are the jump hosts of ProxyJump, each as ssh reaches it. The first may have jump hosts of its own.
func (c *Config) hops(ctx context.Context, proxyJump string, depth int) (out []hop, notes []string, err error) {
	if depth == most {
		return nil, nil, fmt.Errorf("reading the configuration of OpenSSH: more than %d jump hosts lie on the way to %s; does one lead back to itself?", most, proxyJump)
	}
	for i, given := range strings.Split(proxyJump, ",") {
		login, alias, port := split(strings.TrimSpace(given))
		o, err := c.options(ctx, alias)
		if err != nil {
			return nil, nil, err
		}
		if own := o.one("proxyjump"); i == 0 && own != "" && own != "none" {
			before, more, err := c.hops(ctx, own, depth+1)
			if err != nil {
				return nil, nil, err
			}
			out, notes = append(out, before...), append(notes, more...)
		}
		key, more := o.key()
		notes = append(notes, more...)
		out = append(out, hop{user: cmp.Or(login, o.one("user")), host: o.one("hostname"), port: cmp.Or(port, o.one("port")), key: key})
	}
	return out, notes, nil
}

// split reads [user@]host[:port], or ssh://[user@]host[:port].
func split(jump string) (login, host, port string) {
	if u, err := url.Parse(jump); err == nil && u.Scheme == "ssh" {
		return u.User.Username(), u.Hostname(), u.Port()
	}
	host = jump
	if i := strings.LastIndex(host, "@"); i >= 0 {
		login, host = host[:i], host[i+1:]
	}
	if h, p, err := net.SplitHostPort(host); err == nil {
		host, port = h, p
	}
	return login, host, port
}

// Usable is the first IPv4 address of a lookup, or else the first IPv6 address that other hosts can use, too; empty if there is none.
func Usable(addresses []string, err error) string {
	if err != nil {
		return ""
	}
	six := ""
	for _, a := range addresses {
		switch ip, err := netip.ParseAddr(a); {
		case err != nil || ip.IsLinkLocalUnicast():
		case ip.Unmap().Is4():
			return ip.Unmap().String()
		case six == "":
			six = ip.String()
		}
	}
	return six
}
