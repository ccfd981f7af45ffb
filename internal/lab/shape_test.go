package lab

import "testing"

// TestExtraMachinesAreNoOtherShape: Create finds the lab again that it created, whatever was added for a measurement.
func TestExtraMachinesAreNoOtherShape(t *testing.T) {
	cfg := Config{Name: "dev", Zones: []string{"a", "b"}, Machines: []Machine{{Name: "one", Zone: "a"}, {Name: "two", Zone: "b"}}}
	l := &Lab{rec: record{Zones: []string{"a", "b"}, Machines: []Machine{{Name: "one", Zone: "a"}, {Name: "two", Zone: "b"}}}}
	if !l.sameShape(cfg) {
		t.Fatal("a lab is not what it was created as")
	}
	l.rec.Zones, l.rec.Machines = append(l.rec.Zones, "aside"), append(l.rec.Machines, Machine{Name: "simulator", Zone: "aside", Extra: true})
	if !l.sameShape(cfg) {
		t.Error("an extra machine, in a zone of its own, makes it another lab")
	}
	l.rec.Machines = l.rec.Machines[:2]
	if !l.sameShape(cfg) {
		t.Error("the zone of an extra machine that was removed makes it another lab")
	}
	l.rec.Machines = append(l.rec.Machines, Machine{Name: "three", Zone: "a"})
	if l.sameShape(cfg) {
		t.Error("a third machine is not noticed")
	}
	l.rec.Machines = []Machine{{Name: "one", Zone: "a"}}
	if l.sameShape(cfg) {
		t.Error("a machine that is missing is not noticed")
	}
}
