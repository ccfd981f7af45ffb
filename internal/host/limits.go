package host

import (
	"context"
	"encoding/json"
	"errors"
	"strings"

	"quorate.dev/quorate/internal/buildid"
)

// Limits are what a caller may do whose key is admitted for one purpose. Without limits, a caller may do everything.
type Limits struct {
	// Allow returns an error for an operation, or for a request, that the caller may not make.
	Allow func(operation string, request json.RawMessage) error
	// Dial returns an error for an address to which the caller may not have the host connect.
	Dial func(network, address string) error
}

// LimitedLocal is Local within limits, for tests of the limits.
func LimitedLocal(ctx context.Context, name string, l Limits) (*Conn, error) {
	s, err := localSession(ctx, name, &l)
	if err != nil {
		return nil, err
	}
	return connOf(name, s), nil
}

// asked begins the command of a caller that uses the copy of quorate that is installed on a host.
const asked = "quorate of build "

// AskFor is the command with which a caller of that build asks for the copy of quorate that is installed on a host. It is never run: the
// caller's key names another command.
func AskFor(build string) string { return asked + build }

// ErrOtherBuild is the error of a host whose copy of quorate is of another build than the caller. Its text must not change: the host prints it, and a caller of
// another version recognizes it by that.
var ErrOtherBuild = errors.New("the copy of quorate on this host is of another build than the one that asks; `quorate apply` brings all hosts to the same one")

// SameBuild returns ErrOtherBuild unless the command with which a caller came, as sshd has it, is that of a caller of the same build.
func SameBuild(command string) error {
	if own := buildid.Own(); own == "" || !strings.Contains(command, AskFor(own)) {
		return ErrOtherBuild
	}
	return nil
}

// saysOtherBuild says that the host side did not start because of ErrOtherBuild.
func saysOtherBuild(err error) bool {
	return err != nil && strings.Contains(err.Error(), ErrOtherBuild.Error())
}
