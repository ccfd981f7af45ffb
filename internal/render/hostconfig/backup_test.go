package hostconfig

import (
	"slices"
	"strings"
	"testing"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/spec"
)

func TestTheTimerOfBackups(t *testing.T) {
	c := cluster()
	cp := c.HostsWith(spec.RoleControlPlane)[0]
	all := func() []facts.Desired { return []facts.Desired{ControlPlane(c), Adopted(c, cp)} }
	has := func(d facts.Desired) bool {
		return slices.Contains(d.Enable, BackupTimer) && d.Self == SelfPath && slices.ContainsFunc(d.Files, func(f facts.File) bool { return f.Path == BackupUnitFiles[1] })
	}
	for _, b := range []spec.Backup{{}, {Directory: "/srv/backups", Every: spec.BackupNever}} {
		c.Spec.Backup = b
		for _, d := range all() {
			if has(d) || slices.ContainsFunc(d.Files, func(f facts.File) bool { return strings.Contains(f.Path, "backup") }) {
				t.Errorf("%+v: there is a timer", b)
			}
		}
	}
	c.Spec.Backup = spec.Backup{Directory: `/srv/my "100%" backups/./prod/`, Every: "6h"}
	for _, d := range all() {
		if !has(d) {
			t.Errorf("there is no timer: %+v", d.Enable)
		}
		unit := contentOf(t, d, BackupUnitFiles[0])
		if want := "\nReadWritePaths=-/var/lib/quorate \"-/srv/my \\\"100%%\\\" backups/prod\"\n"; !strings.Contains(unit, want) {
			t.Errorf("%s\nhas no line%s", unit, want)
		}
		if f := d.Files[slices.IndexFunc(d.Files, func(f facts.File) bool { return f.Path == BackupUnitFiles[1] })]; len(f.Restart)+len(f.Reload) > 0 {
			t.Errorf("an edit restarts %v", f.Restart)
		}
	}
	if d := Adopted(c, c.HostsWith(spec.RoleWorker)[0]); has(d) {
		t.Error("workers take backups")
	}
	c.Spec.Backup = spec.Backup{S3: spec.BackupS3{Bucket: "b"}, Every: "6h"}
	if unit := contentOf(t, ControlPlane(c), BackupUnitFiles[0]); !strings.Contains(unit, "\nReadWritePaths=-/var/lib/quorate\n") {
		t.Errorf("%s", unit)
	}
}
