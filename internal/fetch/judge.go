package fetch

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"strconv"
	"syscall"
	"time"
)

// finalError is an error that a retry does not fix.
type finalError struct{ why, fix string }

func (e *finalError) Error() string { return e.why }

// Final returns an error that a retry does not fix.
func Final(why, fix string) error { return &finalError{why, fix} }

// statusError is a response with an unexpected status.
type statusError struct {
	code  int
	text  string
	after time.Duration // the server asked for so much time
}

func (e *statusError) Error() string { return "the server responds with " + e.text }

// Status returns the error for a response with an unexpected status.
func Status(resp *http.Response) error {
	e := &statusError{code: resp.StatusCode, text: resp.Status}
	if s, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil && s > 0 {
		e.after = time.Duration(s) * time.Second
	}
	return e
}

// Missing reports whether a request failed because the server does not have what was requested.
func Missing(err error) bool {
	var answer *statusError
	return errors.As(err, &answer) && (answer.code == http.StatusNotFound || answer.code == http.StatusGone)
}

// Silent reports whether a server sent nothing for longer than the client's patience.
func Silent(err error) bool { return errors.Is(err, errSilent) }

// Explain returns why a request failed and what to do about it.
func Explain(err error) (why, fix string) {
	why, fix, _, _ = judge(err)
	return why, fix
}

// judge distinguishes temporary failures from permanent ones.
func judge(err error) (why, fix string, passing bool, wait time.Duration) {
	var (
		stays    *finalError
		answer   *statusError
		unknown  x509.UnknownAuthorityError
		wrong    x509.HostnameError
		invalid  x509.CertificateInvalidError
		alert    tls.AlertError
		notFound *net.DNSError
	)
	switch {
	case errors.As(err, &stays):
		return stays.why, stays.fix, false, 0
	case errors.As(err, &answer):
		return answer.Error(), answer.fix(), answer.passing(), answer.after
	case errors.As(err, &unknown):
		return "its certificate is signed by an authority that this machine does not trust", "set components.caFile (--ca-file) to the CA certificate", false, 0
	case errors.As(err, &wrong), errors.As(err, &invalid), errors.As(err, &alert):
		return err.Error(), "correct the server's certificate", false, 0
	case errors.As(err, &notFound) && notFound.IsNotFound:
		return err.Error(), "check the name and this machine's DNS; without internet access, use a mirror or an exported bundle", false, 0
	case errors.Is(err, syscall.ENOSPC):
		return err.Error(), "free some disk space and run it again; what was downloaded is kept", false, 0
	case errors.Is(err, context.Canceled) && !errors.Is(err, errSilent):
		return err.Error(), "", false, 0
	}
	return err.Error(), "", true, 0
}

func (e *statusError) passing() bool {
	return e.code >= 500 && e.code != http.StatusNotImplemented || e.code == http.StatusTooManyRequests || e.code == http.StatusRequestTimeout
}

func (e *statusError) fix() string {
	switch e.code {
	case http.StatusUnauthorized:
		return "set the user and the password with components.username and passwordFile (--username, --password-file); for a registry, `docker login` works, too"
	case http.StatusForbidden:
		return "the user may not read this: grant the permission, or use another user"
	case http.StatusNotFound, http.StatusGone:
		return "the source does not have it; `quorate bundle sources` lists what a mirror must hold, and where"
	}
	return "ask the administrator of the server"
}
