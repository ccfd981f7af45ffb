package backup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"path"
	"strings"
	"time"

	"github.com/pkg/sftp"
	"golang.org/x/crypto/ssh"

	"quorate.dev/quorate/internal/hostkey"
)

// SFTP is a directory on an SFTP server. The server must have exactly the host key that is set: a control plane connects to
// it, where nobody can confirm another one.
type SFTP struct {
	Address   string `json:"address"` // host:port
	User      string `json:"user"`
	Directory string `json:"directory"`
	// HostKey is a public key, or the fingerprint of one.
	HostKey string `json:"hostKey"`
	// Key is a private key in PEM, without a passphrase.
	Key []byte `json:"key"`
}

// connectTimeout is how long a server may take to accept a connection and a login.
const connectTimeout = 20 * time.Second

func (s *SFTP) connect(ctx context.Context) (Store, error) {
	pin, err := hostkey.Parse(s.HostKey)
	if err != nil {
		return nil, fmt.Errorf("the host key %q: %w", s.HostKey, err)
	}
	key, err := ssh.ParsePrivateKey(s.Key)
	if err != nil {
		return nil, fmt.Errorf("the private key for %s: %w", s.Address, err)
	}
	client, err := s.login(ctx, pin, key)
	if err != nil {
		return nil, err
	}
	files, err := sftp.NewClient(client)
	if err != nil {
		client.Close()
		return nil, fmt.Errorf("starting SFTP: %w", err)
	}
	// The library's operations do not end with a context, but they end with the connection.
	stop := context.AfterFunc(ctx, func() { client.Close() })
	return &sftpStore{dir: s.Directory, ssh: client, Client: files, stop: stop}, nil
}

// login tries one type of host key after the other until the server shows the one that it must have: a fingerprint does not say its
// type, and a server with several keys would show the one that the client likes best.
func (s *SFTP) login(ctx context.Context, pin hostkey.Pin, key ssh.Signer) (*ssh.Client, error) {
	var have []string
	var last error
	for _, algorithms := range [][]string{{ssh.KeyAlgoED25519}, {ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521}, {ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256}} {
		if pin.Type() != "" && !strings.HasPrefix(strings.Join(algorithms, " "), prefixOf(pin.Type())) {
			continue
		}
		wrong := errors.New("another host key")
		config := &ssh.ClientConfig{User: s.User, Auth: []ssh.AuthMethod{ssh.PublicKeys(key)}, HostKeyAlgorithms: algorithms, Timeout: connectTimeout,
			HostKeyCallback: func(_ string, _ net.Addr, shown ssh.PublicKey) error {
				if pin.Matches(shown) {
					return nil
				}
				have = append(have, ssh.FingerprintSHA256(shown))
				return wrong
			}}
		seen := len(have)
		client, err := dial(ctx, s.Address, config)
		if err == nil {
			return client, nil
		}
		var unreachable *net.OpError
		if errors.As(err, &unreachable) || ctx.Err() != nil {
			return nil, err
		}
		if len(have) == seen && !strings.Contains(err.Error(), "no common algorithm") {
			return nil, err // its key is the right one, and something else failed
		}
		last = err
	}
	if len(have) == 0 {
		return nil, last
	}
	return nil, fmt.Errorf("%s has the host key %s, which is not %s: correct backup.sftp.hostKey if the server was reinstalled. Otherwise, someone may be intercepting the connection", s.Address, strings.Join(have, ", "), pin)
}

// prefixOf is what the algorithms of a type of keys begin with.
func prefixOf(keyType string) string {
	if keyType == ssh.KeyAlgoRSA {
		return ssh.KeyAlgoRSASHA512
	}
	if strings.HasPrefix(keyType, "ecdsa-") {
		return ssh.KeyAlgoECDSA256
	}
	return keyType
}

func dial(ctx context.Context, address string, config *ssh.ClientConfig) (*ssh.Client, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, connectTimeout, fmt.Errorf("%s did not answer within %s", address, connectTimeout))
	defer cancel()
	nc, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { nc.Close() })
	defer stop()
	conn, channels, requests, err := ssh.NewClientConn(nc, address, config)
	if err != nil {
		nc.Close()
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, fmt.Errorf("logging in to %s as %s: %w", address, config.User, err)
	}
	return ssh.NewClient(conn, channels, requests), nil
}

type sftpStore struct {
	dir string
	ssh *ssh.Client
	*sftp.Client
	stop func() bool
}

func (s *sftpStore) Put(_ context.Context, name string, content io.Reader) (err error) {
	partial := path.Join(s.dir, "."+name+".partial")
	f, err := s.Create(partial)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			s.Client.Remove(partial) //nolint:errcheck // the first error counts
		}
	}()
	n, err := io.Copy(f, content)
	if err == nil {
		// Not every server can.
		var status *sftp.StatusError
		if serr := f.Sync(); serr != nil && !(errors.As(serr, &status) && status.FxCode() == sftp.ErrSSHFxOpUnsupported) {
			err = serr
		}
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	info, err := s.Stat(partial)
	if err != nil {
		return err
	}
	if info.Size() != n {
		return fmt.Errorf("the server has %d of %d bytes", info.Size(), n)
	}
	return s.Client.Rename(partial, path.Join(s.dir, name))
}

func (s *sftpStore) List(ctx context.Context) ([]Entry, error) {
	files, err := s.ReadDirContext(ctx, s.dir)
	if err != nil {
		return nil, err
	}
	out := []Entry{}
	for _, f := range files {
		if e, ok := entry(f.Name(), f.Size()); ok && f.Mode().IsRegular() {
			out = append(out, e)
		}
	}
	Newest(out)
	return out, nil
}

func (s *sftpStore) Open(ctx context.Context, name string, offset int64) (io.ReadCloser, error) {
	f, err := s.Client.Open(path.Join(s.dir, name))
	if err != nil {
		return nil, err
	}
	if _, err := f.Seek(offset, io.SeekStart); err != nil {
		f.Close()
		return nil, err
	}
	return readCloser{interrupted{ctx, f}, f}, nil
}

func (s *sftpStore) Remove(_ context.Context, name string) error {
	if err := s.Client.Remove(path.Join(s.dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// Close ends the connection first: a server that does not answer any more must not be waited for.
func (s *sftpStore) Close() error {
	s.stop()
	err := s.ssh.Close()
	s.Client.Close() //nolint:errcheck // its connection is gone
	return err
}
