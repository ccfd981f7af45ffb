package facts

import (
	"slices"
	"strings"
	"testing"
)

// releases are os-release files as the distributions ship them, cut to the fields that matter.
var releases = map[string]struct {
	text   string
	family Family
}{
	"Debian 12":     {"PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nVERSION_ID=\"12\"\nID=debian\n", Debian},
	"Ubuntu 24.04":  {"PRETTY_NAME=\"Ubuntu 24.04.1 LTS\"\nVERSION_ID=\"24.04\"\nID=ubuntu\nID_LIKE=debian\n", Debian},
	"Raspbian":      {"PRETTY_NAME=\"Raspbian GNU/Linux 12 (bookworm)\"\nID=raspbian\nID_LIKE=debian\n", Debian},
	"RHEL 9":        {"PRETTY_NAME=\"Red Hat Enterprise Linux 9.4 (Plow)\"\nID=\"rhel\"\nID_LIKE=\"fedora\"\nVERSION_ID=\"9.4\"\n", RHEL},
	"Rocky 9":       {"PRETTY_NAME=\"Rocky Linux 9.4 (Blue Onyx)\"\nID=\"rocky\"\nID_LIKE=\"rhel centos fedora\"\n", RHEL},
	"AlmaLinux 9":   {"PRETTY_NAME=\"AlmaLinux 9.4 (Seafoam Ocelot)\"\nID=\"almalinux\"\nID_LIKE=\"rhel centos fedora\"\n", RHEL},
	"CentOS Stream": {"PRETTY_NAME=\"CentOS Stream 9\"\nID=\"centos\"\nID_LIKE=\"rhel fedora\"\n", RHEL},
	"Fedora":        {"PRETTY_NAME=\"Fedora Linux 41 (Server Edition)\"\nID=fedora\n", RHEL},
	"openSUSE":      {"PRETTY_NAME=\"openSUSE Leap 15.6\"\nID=\"opensuse-leap\"\nID_LIKE=\"suse opensuse\"\n", ""},
	"Alpine":        {"PRETTY_NAME=\"Alpine Linux v3.20\"\nID=alpine\n", ""},
	"no os-release": {"", ""},
}

func TestFamilyOf(t *testing.T) {
	for name, tc := range releases {
		fields := map[string]string{}
		for line := range strings.Lines(tc.text) {
			k, v, _ := strings.Cut(strings.TrimSpace(line), "=")
			fields[k] = strings.Trim(v, `"`)
		}
		if got := FamilyOf(fields); got != tc.family {
			t.Errorf("%s is of family %q, want %q", name, got, tc.family)
		}
	}
}

func TestPackagesHaveTheirFamilysNames(t *testing.T) {
	programs := []string{"haproxy", "losetup", "mount", "modprobe"}
	for family, want := range map[Family][]string{
		Debian: {"haproxy", "kmod", "mount"},
		RHEL:   {"haproxy", "kmod", "util-linux"},
	} {
		if got := family.Packages(programs); !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", family, got, want)
		}
	}
}
