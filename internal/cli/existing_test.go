package cli

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"quorate.dev/quorate/internal/spec"
)

// TestEachHostOfAClusterHasItsOwnPort: the port of the login is that of hosts of which nobody says another one, and only as long as they are reached there.
func TestEachHostOfAClusterHasItsOwnPort(t *testing.T) {
	file := filepath.Join(t.TempDir(), "known_hosts")
	if err := os.WriteFile(file, []byte("# [10.0.0.12]:1\n[10.0.0.12]:2022,[cp-b]:2023 ssh-ed25519 AAAA\n[10.0.0.120]:3 ssh-ed25519 AAAA\n10.0.0.12 ssh-ed25519 AAAA\n[10.0.0.12]:2024 ssh-rsa AAAA\n@revoked [10.0.0.12]:4 ssh-rsa AAAA\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	hosts := []spec.Host{
		{Name: "cp-a", Address: "10.0.0.11"},
		{Name: "cp-b", Address: "10.0.0.12", SSH: spec.SSH{KnownHostsFile: file}},
		{Name: "cp-c", Address: "10.0.0.13", SSH: spec.SSH{Port: 2200}},
	}
	if guessed := atPort(hosts, 2222); !slices.Equal(guessed, []string{"cp-a", "cp-b"}) || hosts[0].SSH.Port != 2222 || hosts[2].SSH.Port != 2200 {
		t.Errorf("%v, %+v", guessed, hosts)
	}
	if got := portsToTry(hosts[1], hosts); !slices.Equal(got, []int{2022, 2024, 22, 2222, 2222, 2200}) {
		t.Errorf("%v", got)
	}
	hosts[1].SSH.KnownHostsFile = file + ".missing"
	if got := portsToTry(hosts[1], hosts); !slices.Equal(got, []int{22, 2222, 2222, 2200}) {
		t.Errorf("without a file: %v", got)
	}
}
