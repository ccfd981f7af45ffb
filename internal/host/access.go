package host

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"

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

	mu    sync.Mutex
	keys  map[string]key
	agent []ssh.Signer
	asked bool // the agent was
}

type key struct {
	signer ssh.Signer
	err    error
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
		_, _ = a.methods(f)
	}
}

// methods are the methods to log in, with one key or with the default ones.
func (a *Access) methods(keyFile string) ([]ssh.AuthMethod, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if keyFile != "" {
		signer, err := a.key(paths.Expand(keyFile), true)
		if err != nil {
			return nil, err
		}
		return []ssh.AuthMethod{ssh.PublicKeys(signer)}, nil
	}
	signers := a.fromAgent()
	var locked []string
	for _, name := range []string{"id_ed25519", "id_ecdsa", "id_rsa"} {
		path := paths.Expand("~/.ssh/" + name)
		s, err := a.key(path, false)
		if err == nil {
			signers = append(signers[:len(signers):len(signers)], s)
		} else if !errors.Is(err, os.ErrNotExist) {
			locked = append(locked, path)
		}
	}
	if len(signers) == 0 && len(locked) > 0 {
		s, err := a.key(locked[0], true)
		if err != nil {
			return nil, err
		}
		signers = append(signers, s)
	}
	if len(signers) == 0 {
		return nil, errors.New("no SSH key: set ssh.keyFile, start an agent, or put a key into ~/.ssh")
	}
	return []ssh.AuthMethod{ssh.PublicKeys(signers...)}, nil
}

// key reads a private key once. One with a passphrase is taken from the agent, if that has it, or unlocked.
func (a *Access) key(path string, unlock bool) (ssh.Signer, error) {
	if k, ok := a.keys[path]; ok {
		return k.signer, k.err
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading the SSH key: %w", err)
	}
	var k key
	var locked *ssh.PassphraseMissingError
	k.signer, err = ssh.ParsePrivateKey(data)
	switch {
	case errors.As(err, &locked):
		if s := a.held(locked.PublicKey, path); s != nil {
			k.signer = s
		} else if !unlock {
			return nil, locked
		} else {
			k.signer, k.err = a.unlock(path, data)
		}
	case err != nil:
		k.err = fmt.Errorf("the SSH key %s: %w", path, err)
	}
	if a.keys == nil {
		a.keys = map[string]key{}
	}
	a.keys[path] = k
	return k.signer, k.err
}

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
		if string(s.PublicKey().Marshal()) == string(public.Marshal()) {
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
