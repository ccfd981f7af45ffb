package host

import (
	"bytes"
	"cmp"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
	"golang.org/x/sys/unix"

	"quorate.dev/quorate/internal/paths"
)

// knownHosts is a known_hosts file as it was when this run began.
type knownHosts struct {
	file string
	// plain holds the hosts' own keys and the revoked keys; authorities holds the keys of certificate authorities, as if
	// they were the hosts' own. The library keeps both in one list, where a host that only an authority's line matches looks
	// like one whose key has changed.
	plain, authorities ssh.HostKeyCallback
	// unreadable counts the lines that were left out.
	unreadable int
}

// usualKnownHosts is the file of known hosts if none is named.
const usualKnownHosts = "~/.ssh/known_hosts"

func readKnownHosts(file string) (*knownHosts, error) {
	k := &knownHosts{file: paths.Expand(cmp.Or(file, usualKnownHosts))}
	data, err := os.ReadFile(k.file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("reading the known host keys: %w", err)
	}
	const authority = "@cert-authority"
	var plain, authorities []string
	for line := range strings.Lines(string(data)) {
		line = strings.TrimSpace(line)
		switch rest, ok := strings.CutPrefix(line, authority); {
		case line == "" || line[0] == '#':
		case ok && strings.TrimLeft(rest, " \t") != rest:
			authorities = append(authorities, strings.TrimSpace(rest))
		default:
			plain = append(plain, line)
		}
	}
	total := len(plain) + len(authorities)
	if plain, k.plain, err = readable(plain); err == nil {
		authorities, k.authorities, err = readable(authorities)
	}
	if err != nil {
		return nil, fmt.Errorf("reading the known host keys in %s: %w", k.file, err)
	}
	k.unreadable = total - len(plain) - len(authorities)
	return k, nil
}

// readable leaves out the lines that the library cannot read, because one of them would make it reject the whole file. It
// finds them by bisection, so that it needs no parser of its own.
func readable(lines []string) ([]string, ssh.HostKeyCallback, error) {
	verify, err := parseKnownHosts(lines)
	var system *fs.PathError
	switch {
	case err == nil || errors.As(err, &system):
		return lines, verify, err
	case len(lines) == 1:
		verify, err := parseKnownHosts(nil)
		return nil, verify, err
	}
	half := len(lines) / 2
	first, _, err := readable(lines[:half:half])
	if err != nil {
		return nil, nil, err
	}
	second, _, err := readable(lines[half:])
	if err != nil {
		return nil, nil, err
	}
	good := append(first, second...)
	verify, err = parseKnownHosts(good)
	return good, verify, err
}

// parseKnownHosts passes lines to the library, which reads only files.
func parseKnownHosts(lines []string) (ssh.HostKeyCallback, error) {
	f, err := os.CreateTemp("", "quorate-known-hosts-*")
	if err != nil {
		return nil, err
	}
	defer os.Remove(f.Name())
	_, err = io.WriteString(f, strings.Join(lines, "\n"))
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return nil, err
	}
	return knownhosts.New(f.Name())
}

// KnownPorts are the ports at which a file of known hosts has a key of an address, besides 22. It finds no names that are hashed, and nothing in a file that
// cannot be read. An empty name stands for the usual file.
func KnownPorts(file, address string) (ports []int) {
	data, err := os.ReadFile(paths.Expand(cmp.Or(file, usualKnownHosts)))
	if err != nil {
		return nil
	}
	for line := range strings.Lines(string(data)) {
		names, _, _ := strings.Cut(strings.TrimSpace(line), " ")
		if strings.HasPrefix(names, "#") || strings.HasPrefix(names, "@") { // what has a marker is no key of a host
			continue
		}
		for name := range strings.SplitSeq(names, ",") {
			at, text, err := net.SplitHostPort(name)
			if port, perr := strconv.Atoi(text); err == nil && perr == nil && at == address && !slices.Contains(ports, port) {
				ports = append(ports, port)
			}
		}
	}
	return ports
}

// keysFor lists the keys in the lines for an address.
func keysFor(lines ssh.HostKeyCallback, addr string) (keys []ssh.PublicKey) {
	// The library can only check a key. Its error about a key that it does not have lists those that it has.
	other, err := ssh.NewPublicKey(ed25519.PublicKey(make([]byte, ed25519.PublicKeySize)))
	if err != nil {
		return nil
	}
	var keyErr *knownhosts.KeyError
	if errors.As(lines(addr, noAddr{}, other), &keyErr) {
		for _, want := range keyErr.Want {
			keys = append(keys, want.Key)
		}
	}
	return keys
}

// noAddr stands for the address of the connection, which does not matter: hosts are known by the address in the spec.
type noAddr struct{}

func (noAddr) Network() string { return "tcp" }
func (noAddr) String() string  { return "0.0.0.0:0" }

// lookup reports whether the key of the host at addr is known. It returns an error if the host must have another key.
func (k *knownHosts) lookup(addr string, key ssh.PublicKey) (known bool, err error) {
	cert, _ := key.(*ssh.Certificate)
	var why error
	if cert != nil {
		if known, why = k.signed(addr, cert); known {
			return true, nil
		}
		key = cert.Key
	}
	err = k.plain(addr, noAddr{}, key)
	var keyErr *knownhosts.KeyError
	switch {
	case err == nil:
		return true, nil
	case errors.As(err, &keyErr) && len(keyErr.Want) == 0:
		return false, why
	}
	return false, err
}

// signed reports whether an authority for addr has signed the certificate, or why a signed certificate is not accepted.
func (k *knownHosts) signed(addr string, cert *ssh.Certificate) (bool, error) {
	for _, key := range []ssh.PublicKey{cert.Key, cert.SignatureKey} {
		var revoked *knownhosts.RevokedError
		if err := k.plain(addr, noAddr{}, key); errors.As(err, &revoked) {
			return false, err
		}
	}
	trusted := false
	checker := ssh.CertChecker{IsHostAuthority: func(key ssh.PublicKey, addr string) bool {
		trusted = slices.ContainsFunc(k.authoritiesFor(addr), func(a ssh.PublicKey) bool { return bytes.Equal(a.Marshal(), key.Marshal()) })
		return trusted
	}}
	err := checker.CheckHostKey(addr, noAddr{}, cert)
	if err != nil && !trusted {
		return false, nil // it is a key like any other
	}
	return err == nil, err
}

// authoritiesFor lists the authorities for an address. As for OpenSSH, a line without a port is for every port.
func (k *knownHosts) authoritiesFor(addr string) []ssh.PublicKey {
	keys := keysFor(k.authorities, addr)
	if host, port, err := net.SplitHostPort(addr); err == nil && port != "22" {
		keys = append(keys, keysFor(k.authorities, net.JoinHostPort(host, "22"))...)
	}
	return keys
}

// algorithms are those of the keys that are recorded for addr, or all that are supported. A server with several keys would
// otherwise present one that was never recorded, which looks like an attack. Certificates are requested only if an authority
// is known.
func (k *knownHosts) algorithms(addr string) []string {
	var certificates, plain []string
	for _, a := range ssh.SupportedAlgorithms().HostKeys {
		if strings.Contains(a, "-cert-v01@") {
			certificates = append(certificates, a)
		} else {
			plain = append(plain, a)
		}
	}
	if keys := keysFor(k.plain, addr); len(keys) > 0 {
		plain = nil
		for _, key := range keys {
			plain = append(plain, algorithmsOf(key.Type())...)
		}
	}
	if len(k.authoritiesFor(addr)) > 0 {
		return append(certificates, plain...)
	}
	return plain
}

// algorithmsOf are the algorithms that keys of a type sign with.
func algorithmsOf(keyType string) []string {
	if keyType == ssh.KeyAlgoRSA {
		return []string{ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256}
	}
	return []string{keyType}
}

// record adds a key to the file, on its own line, unless the file already has it. Other processes may do the same.
func (k *knownHosts) record(addr string, key ssh.PublicKey) error {
	if err := os.MkdirAll(filepath.Dir(k.file), 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(k.file, os.O_CREATE|os.O_APPEND|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		return fmt.Errorf("locking %s: %w", k.file, err)
	}
	data, err := io.ReadAll(f)
	if err != nil {
		return err
	}
	line := []byte(knownhosts.Line([]string{knownhosts.Normalize(addr)}, key) + "\n")
	if n := len(data); n > 0 && data[n-1] != '\n' {
		data = append(data, '\n')
		line = append([]byte{'\n'}, line...)
	}
	if bytes.Contains(append([]byte{'\n'}, data...), append([]byte{'\n'}, bytes.TrimLeft(line, "\n")...)) {
		return nil
	}
	if _, err := f.Write(line); err != nil {
		return err
	}
	return f.Close()
}

// withPort is an address in the form in which SSH looks it up.
func withPort(t Target) string { return net.JoinHostPort(t.Address, fmt.Sprint(t.Port)) }
