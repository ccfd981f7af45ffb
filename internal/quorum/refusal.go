package quorum

import "fmt"

// The rules by which an operation is refused.
const (
	RuleKnown     = "known-member"  // what is operated on must exist
	RuleQuorum    = "quorum-now"    // a change needs a quorum to decide it
	RuleLearner   = "one-learner"   // one membership change at a time
	RuleAfter     = "quorum-after"  // the quorum must hold afterwards, in the worst case
	RuleAPIServer = "an-api-server" // one API server must go on serving
	RuleBalancer  = "a-balancer"    // one balancer must go on holding the endpoint
)

// Refusal is an operation that would be unsafe: by which rule, by which numbers, and the way out.
type Refusal struct {
	Rule string `json:"rule"`
	// Have and Need are the numbers of the rule: Need is the least that is safe, or, for learners, the most.
	Have    int    `json:"have"`
	Need    int    `json:"need"`
	Message string `json:"message"`
	Fix     string `json:"fix"`
}

func (r *Refusal) Error() string {
	return fmt.Sprintf("refused (%s): %s; %s", r.Rule, r.Message, r.Fix)
}

// enough refuses when fewer voters than the quorum would be healthy. It returns error rather than
// *Refusal, so that no typed nil escapes.
func enough(voters, healthy int, rule, what, when, fix string) error {
	if healthy >= Quorum(voters) {
		return nil
	}
	return &Refusal{Rule: rule, Have: healthy, Need: Quorum(voters), Fix: fix,
		Message: fmt.Sprintf("%s needs %d healthy voters of %d, and %s there would be %d", what, Quorum(voters), voters, when, healthy)}
}
