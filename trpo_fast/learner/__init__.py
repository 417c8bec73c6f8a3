"""What training needs beside the update: acting, advantages, normalisation, the critic."""
