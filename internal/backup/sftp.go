package backup

import (
	"bufio"
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
	moved := &transfer{stall: stallTimeout}
	client, err := s.login(ctx, pin, key, moved)
	if err != nil {
		return nil, err
	}
	moved.abort = func() { client.Close() }
	var files *sftp.Client
	err = moved.moving(ctx, func(context.Context) (err error) {
		files, err = sftp.NewClient(client)
		return err
	})
	if err != nil {
		client.Close()
		return nil, fmt.Errorf("starting SFTP: %w", err)
	}
	// The library's operations do not end with a context, but they end with the connection.
	stop := context.AfterFunc(ctx, func() { client.Close() })
	return &sftpStore{dir: s.Directory, ssh: client, Client: files, stop: stop, moved: moved}, nil
}

// login tries one type of host key after the other until the server shows the one that it must have: a fingerprint does not say its
// type, and a server with several keys would show the one that the client likes best.
func (s *SFTP) login(ctx context.Context, pin hostkey.Pin, key ssh.Signer, moved *transfer) (*ssh.Client, error) {
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
		client, err := dial(ctx, s.Address, config, moved)
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

func dial(ctx context.Context, address string, config *ssh.ClientConfig, moved *transfer) (*ssh.Client, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, connectTimeout, fmt.Errorf("%s did not answer within %s", address, connectTimeout))
	defer cancel()
	nc, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { nc.Close() })
	defer stop()
	conn, channels, requests, err := ssh.NewClientConn(moved.counted(nc), address, config)
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
	stop  func() bool
	moved *transfer
}

// readAhead is how much is asked for at a time. The library splits it into requests that it sends without waiting for the answers to the
// others, so that the delay of the network counts once.
const readAhead = 1 << 20

func (s *sftpStore) Put(ctx context.Context, name string, content io.Reader, check func(io.Reader) error) error {
	partial := path.Join(s.dir, partialName(name))
	err := s.moved.moving(ctx, func(ctx context.Context) error {
		if err := s.upload(ctx, partial, content); err != nil {
			return err
		}
		in, err := s.open(ctx, partial, 0)
		if err != nil {
			return err
		}
		defer in.Close()
		if err := check(in); err != nil {
			return err
		}
		return s.Client.Rename(partial, path.Join(s.dir, name))
	})
	if err != nil {
		s.remove(context.WithoutCancel(ctx), partial) //nolint:errcheck // the first error counts, and the next backup removes it
	}
	return err
}

func (s *sftpStore) upload(ctx context.Context, file string, content io.Reader) error {
	f, err := s.Create(file)
	if err != nil {
		return err
	}
	n, err := f.ReadFromWithConcurrency(s.moved.reader(ctx, content), 0)
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
	info, err := s.Stat(file)
	if err != nil {
		return err
	}
	if info.Size() != n {
		return fmt.Errorf("the server has %d of %d bytes", info.Size(), n)
	}
	return nil
}

// files are those in the directory.
func (s *sftpStore) files(ctx context.Context) (out []fs.FileInfo, err error) {
	err = s.moved.moving(ctx, func(ctx context.Context) error {
		out, err = s.ReadDirContext(ctx, s.dir)
		return err
	})
	return out, err
}

func (s *sftpStore) List(ctx context.Context) ([]Entry, error) {
	files, err := s.files(ctx)
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

func (s *sftpStore) Sweep(ctx context.Context, of Name) (removed []string, _ error) {
	files, err := s.files(ctx)
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, f := range files {
		if !isPartial(f.Name(), of) {
			continue
		}
		if err := s.remove(ctx, path.Join(s.dir, f.Name())); err != nil {
			errs = append(errs, err)
			continue
		}
		removed = append(removed, f.Name())
	}
	return removed, errors.Join(errs...)
}

func (s *sftpStore) Open(ctx context.Context, name string, offset int64) (in io.ReadCloser, err error) {
	err = s.moved.moving(ctx, func(context.Context) error {
		in, err = s.open(ctx, path.Join(s.dir, name), offset)
		return err
	})
	return in, err
}

func (s *sftpStore) open(ctx context.Context, file string, offset int64) (io.ReadCloser, error) {
	f, err := s.Client.Open(file)
	if err != nil {
		return nil, err
	}
	if _, err := f.Seek(offset, io.SeekStart); err != nil {
		f.Close()
		return nil, err
	}
	return readCloser{bufio.NewReaderSize(s.moved.reader(ctx, f), readAhead), f}, nil
}

func (s *sftpStore) Remove(ctx context.Context, name string) error {
	return s.remove(ctx, path.Join(s.dir, name))
}

func (s *sftpStore) remove(ctx context.Context, file string) error {
	err := s.moved.moving(ctx, func(context.Context) error { return s.Client.Remove(file) })
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
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
