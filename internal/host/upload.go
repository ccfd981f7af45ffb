package host

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/crypto/ssh"
)

// self is this program's own binary and its SHA-256 in hex, read once.
type self struct{ path, digest string }

var executable = sync.OnceValues(func() (self, error) {
	path, err := os.Executable()
	if err != nil {
		return self{}, fmt.Errorf("finding this program's own binary: %w", err)
	}
	digest, err := digestOf(path)
	return self{path, digest}, err
})

// RemotePath is where Dial puts this binary on a host; a lab places it there beforehand.
func RemotePath() (local, remote string, err error) {
	me, err := executable()
	return me.path, binDir + "/" + me.digest + "/quorate", err
}

// upload writes the binary under its digest. The digest is checked on the host before the final name
// exists, so a name that exists is a whole binary.
func upload(ctx context.Context, client *ssh.Client, t Target, me self, remote string) error {
	session, err := client.NewSession()
	if err != nil {
		return fmt.Errorf("opening a session: %w", err)
	}
	defer session.Close()
	stop := context.AfterFunc(ctx, func() { session.Close() })
	defer stop()
	f, err := os.Open(me.path)
	if err != nil {
		return err
	}
	defer f.Close()
	stderr := &tail{}
	session.Stdin, session.Stderr = f, stderr
	dir := filepath.Dir(remote)
	script := "set -e; umask 077; mkdir -p " + dir + "; t=$(mktemp " + dir + "/.upload.XXXXXX); trap \"rm -f $t\" EXIT; cat >$t; " +
		"echo \"" + me.digest + "  $t\" | sha256sum -c - >&2; chmod 0755 " + binDir + " " + dir + " $t; mv $t " + remote
	if err := session.Run(sudo(t) + "sh -c '" + script + "'"); err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return fmt.Errorf("uploading quorate: %w: %s%s", err, stderr, sudoAdvice(t, stderr.String()))
	}
	return nil
}

func digestOf(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
