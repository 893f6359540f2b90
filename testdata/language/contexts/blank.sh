echo f>"a b"
