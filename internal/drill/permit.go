package drill

import "quorate.dev/quorate/internal/cluster"

// Permit asks the safety rules whether the cluster can lose now what an injection takes away in the worst case.
func Permit(s *cluster.State, i Injection) (cluster.Permit, *cluster.Refusal) {
	if i.Last != "" {
		return cluster.Permit{}, &cluster.Refusal{Rule: cluster.RuleEnough, Need: 1, Why: i.Last, Fix: "Bring another one back first; `quorate status` shows what is wrong."}
	}
	return s.Allow(i.Change())
}

// PermitBeyond is Permit for faults that may take away what the cluster needs, to show what is lost then: only for machines of a lab.
func PermitBeyond(s *cluster.State, i Injection, lab bool) (cluster.Permit, *cluster.Refusal) {
	return s.AllowLoss(i.Change(), lab)
}
