package host

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"quorate.dev/quorate/internal/paths"
)

// knownKeys verifies host keys against a known_hosts file and records those seen for the first time.
type knownKeys struct {
	file   string
	notice func(string)
	verify ssh.HostKeyCallback
}

// recording serialises additions to known_hosts files: many hosts are dialled at once.
var recording sync.Mutex

func hostKeys(file string) (*knownKeys, error) {
	file = paths.Expand(file)
	if file == "" {
		file = paths.Expand("~/.ssh/known_hosts")
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(file, os.O_CREATE|os.O_RDONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("known hosts: %w", err)
	}
	f.Close()
	verify, err := knownhosts.New(file)
	if err != nil {
		return nil, fmt.Errorf("known hosts: %w", err)
	}
	return &knownKeys{file: file, verify: verify}, nil
}

func (k *knownKeys) check(addr string, remote net.Addr, key ssh.PublicKey) error {
	err := k.verify(addr, remote, key)
	var keyErr *knownhosts.KeyError
	if !errors.As(err, &keyErr) || len(keyErr.Want) > 0 {
		return err
	}
	recording.Lock()
	defer recording.Unlock()
	f, err := os.OpenFile(k.file, os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("recording the host key of %s: %w", addr, err)
	}
	defer f.Close()
	if _, err := fmt.Fprintln(f, knownhosts.Line([]string{knownhosts.Normalize(addr)}, key)); err != nil {
		return fmt.Errorf("recording the host key of %s: %w", addr, err)
	}
	if k.notice != nil {
		k.notice(fmt.Sprintf("first connection to %s: recorded its host key %s in %s", addr, ssh.FingerprintSHA256(key), k.file))
	}
	return nil
}

// algorithms asks for the key types that known_hosts has for the host: a server with several keys
// would otherwise offer one that was never recorded, which looks like an attack.
func (k *knownKeys) algorithms(t Target) []string {
	// known_hosts can only be asked about a key: any key that is not in it makes it name those that are.
	probe, err := ssh.NewPublicKey(ed25519.PublicKey(make([]byte, ed25519.PublicKeySize)))
	if err != nil {
		return nil
	}
	addr := net.JoinHostPort(t.Address, strconv.Itoa(t.Port))
	var keyErr *knownhosts.KeyError
	if !errors.As(k.verify(addr, &net.TCPAddr{IP: net.ParseIP(t.Address), Port: t.Port}, probe), &keyErr) {
		return nil
	}
	var out []string
	for _, w := range keyErr.Want {
		if typ := w.Key.Type(); typ == ssh.KeyAlgoRSA {
			out = append(out, ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256)
		} else {
			out = append(out, typ)
		}
	}
	return out
}
