package cli

import (
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"quorate.dev/quorate/internal/host"
	"quorate.dev/quorate/internal/spec"
)

// passphraseVariable is the environment variable that the passphrase of private keys is read from.
const passphraseVariable = "QUORATE_SSH_PASSPHRASE"

// secret reads a secret from the environment, which the programs that this one starts then do not inherit, or asks for it.
func (a *app) secret(variable, question string) (string, error) {
	if s, ok := os.LookupEnv(variable); ok {
		return s, os.Unsetenv(variable)
	}
	s, err := a.ask(question)
	if err != nil {
		return "", fmt.Errorf("%w; set %s instead", err, variable)
	}
	return s, nil
}

// askTerminal asks on the terminal, without an echo, wherever stdin and stderr go.
func askTerminal(question string) (string, error) {
	tty, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
	if err != nil {
		return "", errors.New("there is no terminal to ask on")
	}
	defer tty.Close()
	fmt.Fprint(tty, question)
	answer, err := term.ReadPassword(int(tty.Fd()))
	fmt.Fprintln(tty)
	return string(answer), err
}

// prepareAccess finds out what all commands prove with that they may use hosts.
func (a *app) prepareAccess(cmd *cobra.Command) error {
	a.access = &host.Access{}
	phrase, known := os.LookupEnv(passphraseVariable)
	if err := os.Unsetenv(passphraseVariable); err != nil {
		return err
	}
	a.access.Passphrase = func(keyFile string) (string, error) {
		if known {
			return phrase, nil
		}
		answer, err := a.ask("Passphrase of " + keyFile + ": ")
		if err != nil {
			return "", fmt.Errorf("%w; load it into an agent with ssh-add, or set %s", err, passphraseVariable)
		}
		return answer, nil
	}
	if _, given := os.LookupEnv(host.SudoPasswordVariable); given || a.askSudo {
		var err error
		if a.access.SudoPassword, err = a.secret(host.SudoPasswordVariable, "Password for sudo on the hosts: "); err != nil {
			return usageError{err}
		}
	}
	cmd.SetContext(host.WithAccess(cmd.Context(), a.access))
	return nil
}

// unlock asks for the passphrases of a spec's keys, before progress is shown where the questions would be.
func (a *app) unlock(c *spec.Cluster) {
	var files []string
	for _, h := range c.Spec.Hosts {
		if h.Address != "" {
			files = append(files, h.SSH.KeyFile)
		}
	}
	a.access.Prepare(files)
}
