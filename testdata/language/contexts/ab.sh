touch ab
