package hostconfig

import (
	"slices"
	"strings"
	"testing"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/spec"
)

// TestTheExporterIsAUnitOfItsOwn on control planes, and only if the spec asks for it: what it is given is all that it has.
func TestTheExporterIsAUnitOfItsOwn(t *testing.T) {
	c := cluster()
	c.Spec.Repair.Watch = true
	cp := c.HostsWith(spec.RoleControlPlane)[0]
	has := func(h spec.Host) bool {
		d := Watched(c, h)
		file := slices.ContainsFunc(d.Files, func(f facts.File) bool { return f.Path == ExporterUnitFile })
		if enabled := slices.Contains(d.Enable, ExporterUnit); file != enabled {
			t.Errorf("%s: the file is there: %t, and it is started: %t", h.Name, file, enabled)
		}
		return file
	}
	if has(cp) {
		t.Error("a cluster that exposes nothing has the unit")
	}
	watch := file(t, Watched(c, cp), WatchUnitFile)
	c.Spec.Monitoring.Exporter = true
	for _, h := range c.Spec.Hosts {
		if has(h) != h.Has(spec.RoleControlPlane) {
			t.Errorf("%s %v has it: %t", h.Name, h.Roles, has(h))
		}
	}
	if file(t, Watched(c, cp), WatchUnitFile) != watch {
		t.Error("the unit that observes depends on it")
	}
	unit := file(t, Watched(c, cp), ExporterUnitFile)
	lines := strings.Split(unit, "\n")
	for _, want := range []string{
		"ExecStart=" + SelfPath + " host exporter --cluster test --address " + ExporterAddress(cp),
		"DynamicUser=yes", "NoNewPrivileges=yes", "CapabilityBoundingSet=", "ProtectSystem=strict", "ProtectHome=yes", "RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX",
		"SystemCallFilter=@system-service", "LoadCredential=certificate:" + facts.ExporterCertificateFile, "LoadCredential=kubeconfig:" + facts.ExporterFile,
		"BindReadOnlyPaths=-" + facts.SnapshotsDir + ":" + ExporterSees,
	} {
		if !slices.Contains(lines, want) {
			t.Errorf("no line %q in\n%s", want, unit)
		}
	}
	if strings.Contains(unit, "ExecStartPre=") || strings.Contains(unit, "ExecStartPost=") || strings.Contains(unit, "ExecCondition=") {
		t.Errorf("systemd 247 cannot start a unit with credentials, mounts, and other commands than ExecStart:\n%s", unit)
	}
	// What is mounted over the directory hides the key that reaches all hosts.
	if !strings.HasPrefix(facts.WatchKeyFile, ExporterSees+"/") {
		t.Errorf("%s is not hidden", facts.WatchKeyFile)
	}
	_, after, _ := strings.Cut(unit, "InaccessiblePaths=")
	hidden, _, _ := strings.Cut(after, "\n")
	for _, path := range []string{"-/etc/kubernetes", "-/var/lib/etcd", "-/run/quorate"} {
		if !slices.Contains(strings.Fields(hidden), path) {
			t.Errorf("%s is not hidden: %s", path, hidden)
		}
	}
	if strings.Contains(unit, "CLUSTER") || strings.Contains(unit, "ADDRESS") {
		t.Errorf("something is not filled in:\n%s", unit)
	}
}

// TestWhatIsAskedAboutTheExporter: whether its file was left is asked always, because that is removed, and systemd only where there is such a unit.
func TestWhatIsAskedAboutTheExporter(t *testing.T) {
	c := cluster()
	for _, on := range []bool{false, true} {
		c.Spec.Monitoring.Exporter = on
		r := Request(c)
		if !slices.Contains(r.Files, ExporterUnitFile) {
			t.Errorf("exporter %t: nobody asks for its file", on)
		}
		if slices.Contains(r.Units, ExporterUnit) != on {
			t.Errorf("exporter %t: the units are %v", on, r.Units)
		}
	}
}
