package host

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"syscall"
)

// Error is a host's answer when an operation failed there, or when it could not connect to an address. Use errors.Is for
// causes that are preserved on the way from the host: fs.ErrNotExist, fs.ErrPermission, context.DeadlineExceeded,
// syscall.ECONNREFUSED, syscall.ECONNRESET, syscall.EHOSTUNREACH, and the errors of NewCause.
type Error struct {
	Host, Op string
	Message  string
	cause    error
}

func (e *Error) Error() string { return fmt.Sprintf("%s: %s", e.Host, e.Message) }

// Unwrap returns the cause; nil if it is not one of those that are preserved.
func (e *Error) Unwrap() error { return e.cause }

// Timeout makes a connection that timed out on the host a net.Error that timed out.
func (e *Error) Timeout() bool { return errors.Is(e.cause, context.DeadlineExceeded) }

// Temporary belongs to net.Error, too.
func (e *Error) Temporary() bool { return e.Timeout() }

var _ net.Error = (*Error)(nil)

// SessionError says that a query was not answered because the session to the host ended or the host side did not answer. It
// says nothing about the subject of the query.
type SessionError struct {
	Host string
	Op   string // empty if there was no particular query
	Err  error
}

func (e *SessionError) Error() string {
	if e.Op == "" {
		return fmt.Sprintf("%s: %v", e.Host, e.Err)
	}
	return fmt.Sprintf("%s: %s: %v", e.Host, e.Op, e.Err)
}

// Unwrap returns why there was no answer.
func (e *SessionError) Unwrap() error { return e.Err }

// Unanswered reports whether a query was not answered: the session ended, the host side did not answer in time, or the query
// was not sent because the host key is not confirmed. Nothing may be inferred about the subject of the query.
func Unanswered(err error) bool {
	var session *SessionError
	var unconfirmed *UnconfirmedError
	return errors.As(err, &session) || errors.As(err, &unconfirmed) || errors.Is(err, context.Canceled)
}

type cause struct {
	name string
	err  error
}

// causes are the errors that keep their identity on the way from the host. The first that matches an error is sent.
var causes = []cause{
	{"not-exist", fs.ErrNotExist},
	{"permission", fs.ErrPermission},
	{"refused", syscall.ECONNREFUSED},
	{"reset", syscall.ECONNRESET},
	{"broken-pipe", syscall.EPIPE},
	{"no-route", syscall.EHOSTUNREACH},
	{"no-network", syscall.ENETUNREACH},
	{"deadline", context.DeadlineExceeded},
	{"deadline", os.ErrDeadlineExceeded},
	{"canceled", context.Canceled},
}

// NewCause returns an error that keeps its identity on the way from the host: errors.Is finds it in the error that the
// caller gets. Call it from a package-level variable, with a name that no other cause has.
func NewCause(name, text string) error {
	for _, c := range causes {
		if c.name == name {
			panic("host: the cause " + name + " is defined twice")
		}
	}
	err := errors.New(text)
	causes = append(causes, cause{name, err})
	return err
}

const causeHeader = "Quorate-Cause"

func causeName(err error) string {
	for _, c := range causes {
		if errors.Is(err, c.err) {
			return c.name
		}
	}
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		return "deadline"
	}
	return ""
}

func causeOf(name string) error {
	for _, c := range causes {
		if c.name == name {
			return c.err
		}
	}
	return nil
}

func writeError(w http.ResponseWriter, err error) {
	if name := causeName(err); name != "" {
		w.Header().Set(causeHeader, name)
	}
	http.Error(w, err.Error(), http.StatusUnprocessableEntity)
}
