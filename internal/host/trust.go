package host

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"quorate.dev/quorate/internal/hostkey"
)

// NewKey is an unknown host key: it is not in known_hosts or the spec, and no authority has signed it.
type NewKey struct {
	Host, Address     string
	Type, Fingerprint string
}

// Show is the command that shows the key on the host itself.
func (k NewKey) Show() string {
	kind := "ed25519"
	switch {
	case k.Type == ssh.KeyAlgoRSA:
		kind = "rsa"
	case strings.HasPrefix(k.Type, "ecdsa-"):
		kind = "ecdsa"
	}
	return "ssh-keygen -lf /etc/ssh/ssh_host_" + kind + "_key.pub"
}

// UnconfirmedError says that no secret was sent to a host, because its key was seen for the first time in this run and not
// confirmed.
type UnconfirmedError struct{ Key NewKey }

func (e *UnconfirmedError) Error() string {
	return fmt.Sprintf("%s (%s): the host key %s is new and not confirmed, so no secret is sent there. Compare it with the output of "+
		"`%s` on the host. Then set ssh.hostKey in the spec, confirm the key on a terminal, or use --accept-new-host-keys",
		e.Key.Host, e.Key.Address, e.Key.Fingerprint, e.Key.Show())
}

// HostKeyError says that a host was not connected to because of its key.
type HostKeyError struct {
	Address string
	// Have are the fingerprints of the keys that it presented.
	Have []string
	Why  string
}

func (e *HostKeyError) Error() string {
	return fmt.Sprintf("the host key %s %s", strings.Join(e.Have, ", "), e.Why)
}

// trust decides which host keys count as confirmed, for one run.
type trust struct {
	mu    sync.Mutex
	files map[string]*knownHosts
	// seen are the keys of this run that were new, by file and address. Being recorded in known_hosts does not make them
	// known in the same run.
	seen map[string]*newKey
}

// newKey records what was decided about a key that was seen for the first time.
type newKey struct {
	NewKey
	key       ssh.PublicKey
	known     *knownHosts
	addr      string
	recorded  bool
	confirmed bool
	asked     bool // the user was asked about it
}

// hosts returns the known hosts of a file as they were when the run began.
func (t *trust) hosts(file string) (*knownHosts, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if k := t.files[file]; k != nil {
		return k, nil
	}
	k, err := readKnownHosts(file)
	if err != nil {
		return nil, err
	}
	if t.files == nil {
		t.files, t.seen = map[string]*knownHosts{}, map[string]*newKey{}
	}
	t.files[file] = k
	return k, nil
}

// checker checks the key of one host during one handshake.
type checker struct {
	access *Access
	target Target
	known  *knownHosts
	pin    *hostkey.Pin // from the spec

	// Results of check.
	presented ssh.PublicKey
	unknown   *newKey // set if nothing is known about the key
	err       error
}

func (a *Access) checker(t Target) (*checker, error) {
	known, err := a.trust.hosts(t.KnownHostsFile)
	if err != nil {
		return nil, err
	}
	c := &checker{access: a, target: t, known: known}
	if t.HostKey != "" {
		pin, err := hostkey.Parse(t.HostKey)
		if err != nil {
			return nil, fmt.Errorf("ssh.hostKey %q: %w", t.HostKey, err)
		}
		c.pin = &pin
	}
	return c, nil
}

// algorithms are the signature algorithms to ask the host for.
func (c *checker) algorithms() []string {
	switch {
	case c.pin == nil:
		return c.known.algorithms(withPort(c.target))
	case c.pin.Type() != "":
		return algorithmsOf(c.pin.Type())
	}
	// A fingerprint does not show the key's type. The types that known_hosts has for the host are tried first.
	var out []string
	for _, a := range append(c.known.algorithms(withPort(c.target)), ssh.SupportedAlgorithms().HostKeys...) {
		if !strings.Contains(a, "-cert-v01@") && !slices.Contains(out, a) {
			out = append(out, a)
		}
	}
	return out
}

// check is called during the handshake, before anything is sent.
func (c *checker) check(key ssh.PublicKey) error {
	c.presented = key
	c.err = c.judge(key)
	return c.err
}

func (c *checker) judge(key ssh.PublicKey) error {
	addr := withPort(c.target)
	known, err := c.known.lookup(addr, key)
	var revoked *knownhosts.RevokedError
	if errors.As(err, &revoked) {
		return c.refuse(key, "is revoked in "+c.known.file)
	}
	if c.pin != nil {
		if !c.pin.Matches(key) {
			return c.refuse(key, "is not "+c.pin.String()+", which the spec has as ssh.hostKey: correct the spec if the host was reinstalled. "+
				"Otherwise, someone may be intercepting the connection")
		}
		return nil
	}
	var other *knownhosts.KeyError
	switch {
	case known:
		return nil
	case errors.As(err, &other):
		return c.refuse(key, fmt.Sprintf("is not the one on record in %s: the host was reinstalled, or someone is intercepting the connection. "+
			"If you know why it changed, remove the old key with: ssh-keygen -R '%s' -f %s", c.known.file, knownhosts.Normalize(addr), c.known.file))
	case err != nil:
		return c.refuse(key, "comes with a certificate that is not valid: "+strings.TrimPrefix(err.Error(), "ssh: "))
	case c.access.StrictHostKeys:
		why := "is unknown, and --strict-host-keys is set: add the key to " + c.known.file + " or set ssh.hostKey in the spec"
		if c.known.unreadable > 0 {
			why += fmt.Sprintf(" (%d lines of %[2]s cannot be read)", c.known.unreadable, c.known.file)
		}
		return c.refuse(key, why)
	}
	if cert, ok := key.(*ssh.Certificate); ok {
		key = cert.Key
	}
	c.unknown, err = c.access.trust.meet(&newKey{key: key, known: c.known, addr: addr, NewKey: NewKey{
		Host: c.target.Name, Address: addr, Type: key.Type(), Fingerprint: ssh.FingerprintSHA256(key)}})
	if err != nil {
		return c.refuse(key, err.Error())
	}
	return nil
}

func (c *checker) refuse(key ssh.PublicKey, why string) error {
	if cert, ok := key.(*ssh.Certificate); ok {
		key = cert.Key
	}
	return &HostKeyError{Address: withPort(c.target), Have: []string{ssh.FingerprintSHA256(key)}, Why: why}
}

// meet remembers a new key, or finds it again. A host must not change its key during a run.
func (t *trust) meet(n *newKey) (*newKey, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	id := n.known.file + " " + n.addr
	if old := t.seen[id]; old != nil {
		if old.Fingerprint != n.Fingerprint {
			return nil, errors.New("is not " + old.Fingerprint + ", which the host presented a moment ago")
		}
		return old, nil
	}
	t.seen[id] = n
	return n, nil
}

// Introduce asks the user, in one question, about the keys of hosts that are new, if secrets will be sent to them. Call it
// before DialAll, while a question can still be asked. It connects only to hosts that known_hosts and the spec do not know.
// Hosts that it cannot reach are not asked about: DialAll says why.
func Introduce(ctx context.Context, targets []Target) {
	a := accessOf(ctx)
	if a.StrictHostKeys || a.AcceptNewHostKeys || a.ConfirmKeys == nil {
		return
	}
	d := newDialer(a)
	defer d.close()
	var (
		wg   sync.WaitGroup
		mu   sync.Mutex
		keys []*newKey
	)
	for _, t := range targets {
		if !a.sendsSecrets(t) || a.knows(t) {
			continue
		}
		wg.Go(func() {
			client, key, err := d.client(ctx, t)
			if err != nil {
				return
			}
			client.Close()
			mu.Lock()
			defer mu.Unlock()
			if key != nil && !slices.Contains(keys, key) {
				keys = append(keys, key)
			}
		})
	}
	wg.Wait()
	a.trust.mu.Lock()
	defer a.trust.mu.Unlock()
	keys = slices.DeleteFunc(keys, func(k *newKey) bool { return k.confirmed || k.asked })
	if len(keys) == 0 || ctx.Err() != nil {
		return
	}
	slices.SortFunc(keys, func(a, b *newKey) int { return strings.Compare(a.Host, b.Host) })
	var ask []NewKey
	for _, k := range keys {
		ask = append(ask, k.NewKey)
	}
	yes, err := a.ConfirmKeys(ask)
	for _, k := range keys {
		k.confirmed, k.asked = yes && err == nil, true
	}
}

// knows reports whether a host need not be introduced: its key is recorded or in the spec, whether or not it is the right one.
func (a *Access) knows(t Target) bool {
	if t.HostKey != "" {
		return true
	}
	known, err := a.trust.hosts(t.KnownHostsFile)
	return err != nil || len(keysFor(known.plain, withPort(t))) > 0
}

// admit records a new key. It returns an error if secrets will be sent and the key is not confirmed.
func (a *Access) admit(t Target, k *newKey) *UnconfirmedError {
	if k == nil {
		return nil
	}
	a.trust.mu.Lock()
	defer a.trust.mu.Unlock()
	k.confirmed = k.confirmed || a.AcceptNewHostKeys
	if !k.confirmed && a.sendsSecrets(t) {
		return &UnconfirmedError{Key: k.NewKey}
	}
	if k.recorded {
		return nil
	}
	k.recorded = true
	said := fmt.Sprintf("first connection to %s: recorded its host key %s in %s", k.Address, k.Fingerprint, k.known.file)
	if err := k.known.record(k.addr, k.key); err != nil {
		said = fmt.Sprintf("first connection to %s: its host key %s could not be recorded: %v", k.Address, k.Fingerprint, err)
	}
	if t.Notice != nil {
		t.Notice(said)
	}
	return nil
}

// sendsSecrets reports whether a secret will be sent in the session with a host.
func (a *Access) sendsSecrets(t Target) bool {
	// A jump host only forwards a stream that it cannot read.
	return !t.relay && (a.NeedConfirmedKeys || t.User != "root" && a.SudoPassword != "")
}

// unconfirmed is the state of a session for its operations; nil if the key is known or confirmed.
func (a *Access) unconfirmed(k *newKey) *UnconfirmedError {
	if k == nil {
		return nil
	}
	a.trust.mu.Lock()
	defer a.trust.mu.Unlock()
	if k.confirmed {
		return nil
	}
	return &UnconfirmedError{Key: k.NewKey}
}
