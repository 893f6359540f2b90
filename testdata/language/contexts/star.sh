touch "a*" ab
