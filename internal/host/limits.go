package host

import (
	"context"
	"encoding/json"
	"errors"
	"runtime/debug"
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

// sourcesAsked begins what such a command says of the sources of the caller.
const sourcesAsked = ", of sources "

// ask is AskFor for this program. It also names the sources, because builds for several architectures have the same ones and different IDs.
func ask() string { return AskFor(buildid.Own()) + namedSources() }

// namedSources names the revision that this program was built from; empty if its files were changed since, or if that is unknown.
func namedSources() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	said := map[string]string{}
	for _, s := range info.Settings {
		said[s.Key] = s.Value
	}
	if said["vcs.revision"] == "" || said["vcs.modified"] != "false" {
		return ""
	}
	return sourcesAsked + said["vcs.revision"]
}

// ErrOtherBuild is the error of a host whose copy of quorate is of another build than the caller. Its text must not change: the host prints it, and a caller of
// another version recognizes it by that.
var ErrOtherBuild = errors.New("the copy of quorate on this host is of another build than the one that asks; `quorate apply` brings all hosts to the same one")

// SameBuild returns ErrOtherBuild unless the command with which a caller came, as sshd has it, is that of a caller of the same build, or of
// one that was built from the same sources for another architecture.
func SameBuild(command string) error {
	if !sameBuild(command, buildid.Own(), namedSources()) {
		return ErrOtherBuild
	}
	return nil
}

func sameBuild(command, own, sources string) bool {
	return own != "" && strings.Contains(command, AskFor(own)) || sources != "" && strings.Contains(command, sources)
}

// saysOtherBuild says that the host side did not start because of ErrOtherBuild.
func saysOtherBuild(err error) bool {
	return err != nil && strings.Contains(err.Error(), ErrOtherBuild.Error())
}
