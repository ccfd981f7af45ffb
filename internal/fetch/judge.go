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

// finalError will be the same the next time.
type finalError struct{ why, fix string }

func (e *finalError) Error() string { return e.why }

// Final makes an error that trying again does not cure.
func Final(why, fix string) error { return &finalError{why, fix} }

// statusError is an answer that is not the file.
type statusError struct {
	code  int
	text  string
	after time.Duration // the server asked for so much time
}

func (e *statusError) Error() string { return "the server answers " + e.text }

// Status is the error of an answer that is not what was asked for.
func Status(resp *http.Response) error {
	e := &statusError{code: resp.StatusCode, text: resp.Status}
	if s, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil && s > 0 {
		e.after = time.Duration(s) * time.Second
	}
	return e
}

// Missing says whether a request failed because the server does not have what was asked for.
func Missing(err error) bool {
	var answer *statusError
	return errors.As(err, &answer) && (answer.code == http.StatusNotFound || answer.code == http.StatusGone)
}

// Silent says whether a server did not say anything for longer than there was patience.
func Silent(err error) bool { return errors.Is(err, errSilent) }

// Explain says why a request failed and what to do about it.
func Explain(err error) (why, fix string) {
	why, fix, _, _ = judge(err)
	return why, fix
}

// judge tells failures that pass from those that stay.
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
		return "its certificate is signed by nobody whom this machine knows", "name the authority's certificate with components.caFile (--ca-file)", false, 0
	case errors.As(err, &wrong), errors.As(err, &invalid), errors.As(err, &alert):
		return err.Error(), "put the server's certificate right", false, 0
	case errors.As(err, &notFound) && notFound.IsNotFound:
		return err.Error(), "check the name, and this machine's DNS; where there is no way out, use a mirror or an exported bundle", false, 0
	case errors.Is(err, syscall.ENOSPC):
		return err.Error(), "free some disk space; what was downloaded is kept", false, 0
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
		return "give the user and the password with components.username and passwordFile (--username, --password-file), for a registry also with `docker login`"
	case http.StatusForbidden:
		return "the user may not read this: ask for the right to, or use another"
	case http.StatusNotFound, http.StatusGone:
		return "the source does not have it; `quorate bundle sources` lists what a mirror must hold, and where"
	}
	return "ask whoever runs the server"
}
