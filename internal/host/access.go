package host

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"quorate.dev/quorate/internal/paths"
)

// Access holds the credentials with which the caller logs in to hosts. All hosts of a run share it, so that a key is read, and
// a passphrase asked for, only once. Its secrets are only in memory.
type Access struct {
	// SudoPassword answers the prompt of a host's sudo, through the session and nowhere else.
	SudoPassword string
	// Passphrase asks for the passphrase of a private key; nil if there is nobody to ask.
	Passphrase func(keyFile string) (string, error)

	// Installed is set for a caller whose key admits only the copy of quorate that each host has, within limits (see ServeLimited). Nothing
	// is uploaded, and a copy of another build is refused.
	Installed bool
	// StrictHostKeys refuses hosts whose keys are unknown, and records nothing.
	StrictHostKeys bool
	// AcceptNewHostKeys counts keys that are seen for the first time as confirmed.
	AcceptNewHostKeys bool
	// NeedConfirmedKeys is set for a run that sends secrets to hosts: it connects only to hosts whose keys are known or
	// confirmed.
	NeedConfirmedKeys bool
	// ConfirmKeys asks the user whether keys that are seen for the first time are those of the hosts; nil if there is nobody
	// to ask. It is called once for all hosts, and only if secrets will be sent.
	ConfirmKeys func([]NewKey) (bool, error)

	trust trust

	mu   sync.Mutex
	keys map[string]key
	// accepted is the first of the keys of which a host accepted one, by user and address.
	accepted map[string]ssh.PublicKey
	agent    []ssh.Signer
	asked    bool // the agent was
	// locked are the usual keys that were left out because they have a passphrase and there are others.
	locked []string
}

// key is what there is to log in with by one file.
type key struct {
	signers []ssh.Signer
	// expired is when the certificate expired; zero if it did not, or if there is none.
	expired time.Time
	err     error
}

type accessKey struct{}

// WithAccess makes everything that is dialed with the context use the access.
func WithAccess(ctx context.Context, a *Access) context.Context {
	return context.WithValue(ctx, accessKey{}, a)
}

func accessOf(ctx context.Context) *Access {
	if a, ok := ctx.Value(accessKey{}).(*Access); ok {
		return a
	}
	return &Access{}
}

// Prepare reads the keys that will be used, so that prompts come before other output on the terminal. Errors about a key are
// reported when a host needs it. An empty name stands for the default keys.
func (a *Access) Prepare(keyFiles []string) {
	for _, f := range keyFiles {
		_, _ = a.signers(f)
	}
}

// signers are the keys to log in with: one with its certificate, or the default ones, which are those of the agent and the usual files.
func (a *Access) signers(keyFile string) ([]ssh.Signer, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if keyFile != "" {
		k, err := a.key(paths.Expand(keyFile), true)
		return k.signers, err
	}
	signers := slices.Clone(a.fromAgent())
	add := func(k key) {
		for _, s := range k.signers {
			if !slices.ContainsFunc(signers, func(have ssh.Signer) bool { return sameKey(have.PublicKey(), s.PublicKey()) }) {
				signers = append(signers, s)
			}
		}
	}
	var locked []string
	for _, name := range []string{"id_ed25519", "id_ecdsa", "id_rsa"} {
		path := paths.Expand("~/.ssh/" + name)
		k, err := a.key(path, false)
		if err == nil {
			add(k)
		} else if !errors.Is(err, os.ErrNotExist) {
			locked = append(locked, path)
		}
	}
	if len(signers) == 0 && len(locked) > 0 {
		k, err := a.key(locked[0], true)
		if err != nil {
			return nil, err
		}
		add(k)
	}
	a.locked = slices.DeleteFunc(locked, func(path string) bool { _, read := a.keys[path]; return read })
	if len(signers) == 0 {
		return nil, errors.New("no SSH key: set ssh.keyFile, start an agent, or put a key into ~/.ssh")
	}
	return signers, nil
}

// accept remembers that a host accepted one of the keys that begin with this one, for a user.
func (a *Access) accept(user, addr string, first ssh.Signer) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.accepted == nil {
		a.accepted = map[string]ssh.PublicKey{}
	}
	a.accepted[user+"@"+addr] = first.PublicKey()
}

func (a *Access) wasAccepted(user, addr string, first ssh.Signer) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	key, known := a.accepted[user+"@"+addr]
	return known && sameKey(key, first.PublicKey())
}

// untried are the usual keys that signers left out.
func (a *Access) untried() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.locked
}

// expired is when the certificate of a key expired; zero if it did not, or if there is none.
func (a *Access) expired(keyFile string) time.Time {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.keys[paths.Expand(keyFile)].expired
}

// key reads a private key and its certificate once. A private key with a passphrase is taken from the agent, if that has it, or
// unlocked. A public key stands for the private one that the agent, or the file next to it, has.
func (a *Access) key(path string, unlock bool) (key, error) {
	if k, ok := a.keys[path]; ok {
		return k, k.err
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return key{}, fmt.Errorf("reading the SSH key: %w", err)
	}
	var k key
	signer, err := a.signer(path, data, unlock)
	var locked *ssh.PassphraseMissingError
	if errors.As(err, &locked) {
		return key{}, err // it may be unlocked later
	}
	if err == nil {
		k.signers, k.expired, err = certified(path, signer)
		if err != nil && !unlock { // beside a usual key may be the certificate of another one
			k.signers, err = []ssh.Signer{signer}, nil
		}
	}
	k.err = err
	if a.keys == nil {
		a.keys = map[string]key{}
	}
	a.keys[path] = k
	return k, k.err
}

func (a *Access) signer(path string, data []byte, unlock bool) (ssh.Signer, error) {
	if public, _, _, _, err := ssh.ParseAuthorizedKey(data); err == nil {
		return a.ofPublic(path, public, unlock)
	}
	signer, err := ssh.ParsePrivateKey(data)
	var locked *ssh.PassphraseMissingError
	switch {
	case errors.As(err, &locked):
		if s := a.held(locked.PublicKey, path); s != nil {
			return s, nil
		} else if !unlock {
			return nil, locked
		}
		return a.unlock(path, data)
	case err != nil:
		return nil, fmt.Errorf("the SSH key %s: %w", path, err)
	}
	return signer, nil
}

// ofPublic finds the private key of a public key, or of a certificate, in a file.
func (a *Access) ofPublic(path string, public ssh.PublicKey, unlock bool) (ssh.Signer, error) {
	if cert, ok := public.(*ssh.Certificate); ok {
		public = cert.Key
	}
	if s := a.held(public, path); s != nil {
		return s, nil
	}
	private := strings.TrimSuffix(strings.TrimSuffix(path, ".pub"), "-cert")
	data, err := os.ReadFile(private)
	if private == path || errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("the SSH key %s is a public key, and the agent does not have its private key: load it with ssh-add", path)
	}
	if err != nil {
		return nil, fmt.Errorf("reading the SSH key: %w", err)
	}
	return a.signer(private, data, unlock)
}

// certified adds the certificate of a key, which is in a file next to it as ssh-keygen writes it, and which hosts accept that trust
// its authority. Without a certificate that is valid, the key is alone.
func certified(path string, signer ssh.Signer) (signers []ssh.Signer, expired time.Time, err error) {
	file := path
	if !strings.HasSuffix(path, "-cert.pub") {
		file = strings.TrimSuffix(path, ".pub") + "-cert.pub"
	}
	data, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) {
		return []ssh.Signer{signer}, time.Time{}, nil
	}
	var public ssh.PublicKey
	if err == nil {
		public, _, _, _, err = ssh.ParseAuthorizedKey(data)
	}
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("reading the SSH certificate %s: %w", file, err)
	}
	cert, ok := public.(*ssh.Certificate)
	if !ok {
		return nil, time.Time{}, fmt.Errorf("reading the SSH certificate %s: it is a public key without a certificate", file)
	}
	if cert.ValidBefore != ssh.CertTimeInfinity {
		if end := time.Unix(int64(cert.ValidBefore), 0); !time.Now().Before(end) {
			return []ssh.Signer{signer}, end, nil
		}
	}
	both, err := ssh.NewCertSigner(cert, signer)
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("the SSH certificate %s is not that of the key %s: %w", file, path, err)
	}
	return []ssh.Signer{both, signer}, time.Time{}, nil
}

func sameKey(a, b ssh.PublicKey) bool { return bytes.Equal(a.Marshal(), b.Marshal()) }

func (a *Access) unlock(path string, data []byte) (ssh.Signer, error) {
	if a.Passphrase == nil {
		return nil, fmt.Errorf("the SSH key %s has a passphrase, and there is no terminal to prompt on: load the key into an agent with ssh-add", path)
	}
	phrase, err := a.Passphrase(path)
	if err != nil {
		return nil, fmt.Errorf("the SSH key %s has a passphrase: %w", path, err)
	}
	signer, err := ssh.ParsePrivateKeyWithPassphrase(data, []byte(phrase))
	if err != nil {
		return nil, fmt.Errorf("the SSH key %s: wrong passphrase: %w", path, err)
	}
	return signer, nil
}

// held finds a key's signer in the agent, by the public key that is in the file or in the .pub file next to it.
func (a *Access) held(public ssh.PublicKey, path string) ssh.Signer {
	if public == nil {
		line, err := os.ReadFile(path + ".pub")
		if err != nil {
			return nil
		}
		if public, _, _, _, err = ssh.ParseAuthorizedKey(line); err != nil {
			return nil
		}
	}
	for _, s := range a.fromAgent() {
		if sameKey(s.PublicKey(), public) {
			return s
		}
	}
	return nil
}

// fromAgent asks the agent for its keys, once, over one connection that lives as long as the process.
func (a *Access) fromAgent() []ssh.Signer {
	if a.asked {
		return a.agent
	}
	a.asked = true
	if sock := os.Getenv("SSH_AUTH_SOCK"); sock != "" {
		if nc, err := net.Dial("unix", sock); err == nil {
			a.agent, _ = agent.NewClient(nc).Signers()
		}
	}
	return a.agent
}
