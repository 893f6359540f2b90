mkdir d; touch "d/a*b" d/axb
