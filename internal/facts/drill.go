package facts

import "time"

const (
	// DrillKey is the entry of ConfigMap that holds the LastDrill.
	DrillKey = "last-drill"
	// DrillsConfigMap, in kube-system, holds the history of drills: an entry for each (see drill.Record). It is not in ConfigMap, which every
	// observation reads.
	DrillsConfigMap = "quorate-drills"
)

// LastDrill is how the last drill ended, as Quorate noted it in the cluster.
type LastDrill struct {
	// Ended is when, by the clock of the machine that ran it.
	Ended time.Time `json:"ended"`
	// Pass says that the drill as a whole passed. Interrupted is why it ended early.
	Pass        bool   `json:"pass"`
	Interrupted string `json:"interrupted,omitempty"`
	// Lost counts acknowledged writes that were lost.
	Lost int `json:"lost"`
	// Faults are the verdicts, by the name of the fault.
	Faults map[string]DrillVerdicts `json:"faults"`
}

// DrillVerdicts counts how often one fault passed, how often it missed an objective, and how often nothing could be said.
type DrillVerdicts struct {
	Passed  int `json:"passed"`
	Missed  int `json:"missed"`
	Invalid int `json:"invalid"`
}
