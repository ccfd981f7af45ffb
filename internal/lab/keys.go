package lab

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/crypto/ssh"

	"quorate.dev/quorate/internal/durable"
)

// keyPair generates an ed25519 key in OpenSSH's formats: a private key file and a public key line.
func keyPair(comment string) (private, public []byte, err error) {
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	block, err := ssh.MarshalPrivateKey(key, comment)
	if err != nil {
		return nil, nil, err
	}
	line, err := ssh.NewPublicKey(pub)
	if err != nil {
		return nil, nil, err
	}
	public = append(bytes.TrimSpace(ssh.MarshalAuthorizedKey(line)), ' ')
	return pem.EncodeToMemory(block), append(append(public, comment...), '\n'), nil
}

// makeKey generates the key that root accepts on every machine of the lab.
func (l *Lab) makeKey() error {
	private, public, err := keyPair("quorate lab " + l.Name())
	if err != nil {
		return fmt.Errorf("generate the lab's SSH key: %w", err)
	}
	dir := filepath.Dir(l.SSHKey())
	return errors.Join(
		os.MkdirAll(dir, 0o700),
		durable.WriteFile(l.SSHKey(), private, 0o600),
		durable.WriteFile(l.SSHKey()+".pub", public, 0o644),
	)
}

func (l *Lab) hostKeyFile(machine string) string {
	return filepath.Join(l.machineDir(machine), "host_key.pub")
}

// writeKnownHosts lists the host key of every machine under its address and its name.
func (l *Lab) writeKnownHosts() error {
	var out bytes.Buffer
	for _, m := range l.rec.Machines {
		key, err := os.ReadFile(l.hostKeyFile(m.Name))
		if errors.Is(err, os.ErrNotExist) {
			continue // another process is creating it and will write the list again
		}
		if err != nil {
			return err
		}
		pub, _, _, _, err := ssh.ParseAuthorizedKey(key)
		if err != nil {
			return fmt.Errorf("host key of machine %s: %w", m.Name, err)
		}
		for _, a := range l.Family().all(m.Address) {
			fmt.Fprintf(&out, "%s,", a.Addr())
		}
		fmt.Fprintf(&out, "%s %s", m.Name, ssh.MarshalAuthorizedKey(pub))
	}
	return durable.WriteFile(l.KnownHosts(), out.Bytes(), 0o644)
}
