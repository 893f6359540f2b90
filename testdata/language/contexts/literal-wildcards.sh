touch "we*ird" weXird "[x]"
